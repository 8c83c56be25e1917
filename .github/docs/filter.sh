#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Doxygen's view of a header: plain comments become its own, that of the whole file is left out.
# C++ alone stands in code; in comments < and # would be HTML and links.
case $1 in *.h | *.cuh) ;; *) exec cat "$1" ;; esac
exec awk '
  !body && /^#ifndef KLA_/ { body = 1 }
  !body && /^\/\// { print ""; next }
  {
    at = index($0, "// ")
    if (at == 0 && $0 ~ /^ *\/\/$/) { sub(/\/\//, "///"); print; next }
    if (at == 0) { print; next }
    code = substr($0, 1, at - 1); text = substr($0, at + 3)
    gsub(/[<>#@]/, "\\\\&", text)
    if (code ~ /^ *$/) print code "/// " text
    else if (code ~ /[;,{] *$/) print code "///< " text
    else print
  }' "$1"
