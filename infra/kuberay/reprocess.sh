#!/usr/bin/env bash
# Scheduled reprocessing: reprocess.sh CORPUS OUT CANARY CANARY_OUT
#
# The canary, a small corpus, is annotated with the newest models first. Where their numbers differ from those of the
# models in force in OUT by more than LIMITS allow, the run is held: exit code 3, and OUT stays as it is. The next night
# asks the same question again, until somebody raises a limit or pins the model. Otherwise OUT is brought up to date.
#
# Environment:
#   BUNDLE   bundle of models (default: pyfeat)
#   OPTIONS  further options of `faceatlas annotate`, such as "--every 5"
#   LIMITS   lines "table metric=value", as `faceatlas versions diff TABLE --limit` takes them
set -euo pipefail
corpus=$1 out=$2 canary=$3 canary_out=$4
bundle=${BUNDLE:-pyfeat}
read -ra options <<<"${OPTIONS:-}"
limits=${LIMITS:-"landmarks mean_distance=1.5
emotions mean_delta=0.05"}

version_in_force() { # OUT TABLE
    faceatlas versions list "$1" --json | python -c '
import json, sys
print(next((row["version"] for row in json.load(sys.stdin) if row["table"] == sys.argv[1] and row["in_force"]), ""))' "$2"
}

faceatlas annotate "$canary" "$canary_out" --bundle "$bundle" --follow-models "${options[@]}"
held=0
while read -r table limit; do
    [ -n "$table" ] || continue
    old=$(version_in_force "$out" "$table") || old=""
    new=$(version_in_force "$canary_out" "$table")
    if [ -z "$old" ] || [ "$old" = "$new" ]; then
        continue # nothing to compare: OUT is new, or the model is the same
    fi
    status=0
    faceatlas versions diff "$canary_out" "$table" "$old" "$new" --limit "$limit" || status=$?
    if [ "$status" -ne 0 ]; then # 3: a limit is broken; 2: the canary never saw the version in force
        echo "HELD: $table $old -> $new (exit code $status of versions diff)"
        held=1
    fi
done <<<"$limits"
if [ "$held" -ne 0 ]; then
    exit 3
fi
faceatlas annotate "$corpus" "$out" --bundle "$bundle" --follow-models "${options[@]}"
