#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Rules that hold for every source file:  source_rules.sh <rule>, run in the root of the project.
# Exit status: 0 holds, 1 broken, 77 cannot be checked here (ctest reports it as skipped).
set -euo pipefail
rule=$1

# All files of a kind; in a checkout those that git knows or would know, else those on disk.
files() {
  if git rev-parse --is-inside-work-tree > /dev/null 2>&1; then
    git ls-files --cached --others --exclude-standard -- "$@"
  else
    local pattern
    for pattern in "$@"; do find include tests bench examples *.txt -path "$pattern"; done
  fi | sort -u | while IFS= read -r file; do if [ -f "$file" ]; then echo "$file"; fi; done
}

broken=0
complain() {
  echo "$1"
  broken=1
}

case $rule in
  # The folders are the architecture: a newcomer sees these entries and nothing else.
  top_level)
    if git rev-parse --is-inside-work-tree > /dev/null 2>&1; then
      entries=$(git ls-files | sed 's|/.*||' | sort -u)
    else
      entries=$(ls | grep -v '^build')
    fi
    expected=$(printf '%s\n' CMakeLists.txt LICENSE README.md bench examples include tests)
    while IFS= read -r entry; do
      case $entry in
        .*) ;;
        *) grep -qxF -- "$entry" <<< "$expected" || complain "not a top-level entry: $entry" ;;
      esac
    done <<< "$entries"
    ;;

  line_count)
    while IFS= read -r file; do
      lines=$(wc -l < "$file")
      [ "$lines" -le 400 ] || complain "$file: $lines lines, at most 400"
    done < <(files 'include/*.h' 'include/*.cuh')
    ;;

  license_line)
    while IFS= read -r file; do
      head -n 2 "$file" | grep -qE '^(//|#) SPDX-License-Identifier: Apache-2\.0$' ||
        complain "$file: no SPDX-License-Identifier in the first two lines"
    done < <(files '*.h' '*.cuh' '*.cc' '*.cu' '*.py' '*.sh' 'CMakeLists.txt' '*/CMakeLists.txt' \
                   '*.cmake')
    ;;

  # include/kla/core/view.h is guarded by KLA_CORE_VIEW_H_.
  include_guards)
    while IFS= read -r file; do
      guard=$(sed 's|^include/||; s|[/.]|_|g' <<< "$file" | tr '[:lower:]' '[:upper:]')_
      grep -qxF "#ifndef $guard" "$file" && grep -qxF "#define $guard" "$file" ||
        complain "$file: the include guard is not $guard"
    done < <(files 'include/*.h' 'include/*.cuh')
    ;;

  # Includes point down only: core -> math -> op -> backend -> layer; no backend sees another
  # but reference; nothing that CUDA sees reaches Highway.
  include_order)
    declare -A rank=([core]=0 [math]=1 [op]=2 [backend]=3 [layer]=4)
    while IFS= read -r file; do
      room=$(cut -d/ -f3 <<< "$file")
      [ -n "${rank[$room]:-}" ] || continue  # an umbrella header
      while IFS= read -r other; do
        if [ -z "${rank[$other]:-}" ]; then
          complain "$file: includes an umbrella header, kla/$other"
        elif [ "${rank[$other]}" -gt "${rank[$room]}" ]; then
          complain "$file: includes kla/$other/, which is above kla/$room/"
        fi
      done < <(sed -nE 's|^ *# *include *[<"]kla/([^/">]+).*|\1|p' "$file")
      case $file in
        include/kla/backend/simd/*) ;;
        *) if grep -nE '^ *# *include *[<"]hwy/' "$file"; then
             complain "$file: Highway belongs to backend/simd/ alone"
           fi ;;
      esac
    done < <(files 'include/*.h' 'include/*.cuh')
    ;;

  # clang-format 14, the version of Debian 12; others lay out some constructs differently.
  format)
    tool=$(command -v clang-format-14 || command -v clang-format) || {
      echo "skipped: clang-format is not installed"
      exit 77
    }
    "$tool" --version | grep -q 'version 14\.' || {
      echo "skipped: $("$tool" --version), and the layout is checked with version 14"
      exit 77
    }
    mapfile -t sources < <(files '*.h' '*.cuh' '*.cc' '*.cu')
    if [ "${#sources[@]}" -gt 0 ]; then
      "$tool" --dry-run --Werror "${sources[@]}" || complain "run clang-format -i on these files"
    fi
    ;;

  # Relative links of the documents lead somewhere.
  links)
    while IFS= read -r file; do
      while IFS= read -r link; do
        [ -e "$(dirname "$file")/$link" ] || complain "$file: no such file: $link"
      done < <(grep -oE '\]\([^)#]+' "$file" | sed 's/^](//' | grep -vE '^[a-z]+:' || true)
    done < <(files '*.md')
    ;;

  *) complain "unknown rule: $rule" ;;
esac

if [ "$broken" -eq 0 ]; then echo "holds: $rule"; fi
exit "$broken"
