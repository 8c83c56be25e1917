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

  # Includes point down only: core -> math -> op -> backend -> layer -> interop, within `layer` from its
  # machines to what they share, within backend/cuda from doors to rooms; no backend sees another but
  # reference; nobody includes an interop header; nothing that CUDA sees reaches Highway.
  include_order)
    declare -A rank=([core]=0 [math]=1 [op]=2 [backend]=3 [layer]=4 [interop]=5)
    while IFS= read -r file; do
      IFS=/ read -r room place part rest <<< "${file#include/kla/}"
      [ -n "${rank[$room]:-}" ] || continue  # an umbrella header
      while IFS= read -r other; do
        IFS=/ read -r its_room its_place its_part its_rest <<< "$other"
        if [ -z "${rank[$its_room]:-}" ]; then
          complain "$file: includes an umbrella header, kla/$other"
        elif [ "${rank[$its_room]}" -gt "${rank[$room]}" ]; then
          complain "$file: includes kla/$its_room/, which is above kla/$room/"
        elif [ "$its_room" = interop ] && [ "$other" != "${file#include/kla/}" ]; then
          complain "$file: includes kla/$other, and nobody includes an interop header"
        elif [ "$room/$its_room" = backend/backend ]; then
          case $place in
            *.*) ;;  # stands above the backends and picks one
            *)
              if [ "$its_place" != "$place" ] && [ "$its_place" != reference ]; then
                complain "$file: includes kla/$other, another backend than reference"
              fi ;;
          esac
          # A room of Cuda, of which only its doors know all. Two are open to rooms: the tags and the
          # executor. `block` and `tile` stand above `runtime`, the kernels above these, and the
          # layer's kernels beside `decode`, whose states they carry.
          if [ "$place" = cuda ] && [ "$its_place" = cuda ] && [ -n "$rest$part" ] && [ "${part%.*}" = "$part" ]; then
            case $part/$its_part in
              "$part/$part" | */cuda.h | */executor.cuh | */runtime) ;;
              chunk/tile | chunk/block | decode/block | layer/block | layer/decode) ;;
              *) complain "$file: includes kla/$other, which is not below backend/cuda/$part/" ;;
            esac
          fi
        elif [ "$room/$its_room" = layer/layer ]; then
          case $place/$its_place in
            host/host | device/device | */*.*) ;;
            *) complain "$file: includes kla/$other, which is not below it" ;;
          esac
        fi
      done < <(sed -nE 's|^ *# *include *[<"]kla/([^">]+)[">].*|\1|p' "$file")
      case $file in
        include/kla/backend/simd/*) ;;
        *) if grep -nE '^ *# *include *[<"]hwy/' "$file"; then
             complain "$file: Highway belongs to backend/simd/ alone"
           fi ;;
      esac
    done < <(files 'include/*.h' 'include/*.cuh')
    ;;

  # What a user reads in a public header names nothing of kla::internal: outside the bodies of
  # functions, private sections and `namespace internal` itself, which braces tell. Let through, each
  # with its reason: bases whose public members are the interface, and aliases of plain types.
  public_interface)
    allowed='PoolSizes|PooledState|PooledLayerState|ScalarTypes'
    while IFS= read -r file; do
      found=$(awk -v allowed="$allowed" '
        function Finish(end) {  # one statement or the head of a body
          if (Public() && text ~ /internal::/ && text !~ /^[ \t]*(static_assert|using internal|(inline )?namespace)/) {
            rest = text
            sub(/\)[ \t]*(noexcept[ \t]*)?:[ \t][A-Za-z_].*/, ")", rest)  # what a constructor initialises
            gsub("internal::(device::)?(" allowed "|DevicePlatform)[^A-Za-z]", "", rest)
            if (rest ~ /internal::/) { gsub(/[ \t]+/, " ", text); print NR ": " text }
          }
          text = ""
        }
        function Public(   i) {
          for (i = 1; i <= depth; ++i) if (kind[i] == "body" || hidden[i]) return 0
          return 1
        }
        /^[ \t]*#/ { continues = /\\$/; next }
        continues { continues = /\\$/; next }
        {
          line = $0
          gsub(/\\"|\047[{};"]\047/, "", line)
          gsub(/"[^"]*"/, "\"\"", line)
          sub(/\/\/.*/, "", line)
          if (line ~ /^ *(public|protected|private):/) {
            hidden[depth] = line ~ /private/
            text = ""
            next
          }
          count = split(line, letters, "")
          for (i = 1; i <= count; ++i) {
            c = letters[i]
            if (c == "{") {
              ++depth
              hidden[depth] = 0
              if (text ~ /namespace/) { kind[depth] = "names"; hidden[depth] = text ~ /internal/ }
              else if (text ~ /(^|[ \t>])(class|struct|union)[ \t]/ && text !~ /\)[ \t]*(const|noexcept)?[ \t]*$/) kind[depth] = "class"
              else kind[depth] = "body"
              was = kind[depth]; kind[depth] = "head"; shown = hidden[depth]; hidden[depth] = 0
              Finish()
              kind[depth] = was; hidden[depth] = shown
            } else if (c == "}") {
              if (kind[depth] != "class") text = ""
              --depth
            } else if (c == ";") {
              Finish()
            } else {
              text = text c
            }
          }
          text = text " "
        }' "$file")
      if [ -n "$found" ]; then
        complain "$file: names internal in its interface"
        echo "$found"
      fi
    done < <(files 'include/kla/*.h' 'include/kla/*.cuh' |
      grep -E '^include/kla/([^/]+|(core|op)/.*|math/step_size\.h|backend/[^/]+|backend/cuda/[^/]+|backend/(simd|reference)/(simd|reference)\.h)$')
    ;;

  # version.h says what CMake says.
  version)
    of_header=$(awk '/define KLA_VERSION_(MAJOR|MINOR|PATCH) / { printf "%s%s", dot, $3; dot = "." }' \
      include/kla/version.h)
    of_cmake=$(sed -nE 's/^project\(kla VERSION ([0-9.]+).*/\1/p' CMakeLists.txt)
    [ -n "$of_cmake" ] && [ "$of_header" = "$of_cmake" ] ||
      complain "version.h says '$of_header', CMakeLists.txt '$of_cmake'"
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
