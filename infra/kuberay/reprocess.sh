#!/usr/bin/env bash
# Scheduled reprocessing: reprocess.sh CORPUS OUT CANARY CANARY_OUT
#
# The canary, a small corpus, is annotated with the newest models first. Where their numbers differ from those of the
# current models of OUT by more than LIMITS allow, the run is held: exit code 3, and OUT stays as it is. The next night
# asks the same question again, until somebody raises a limit or pins the model. Otherwise OUT is brought up to date.
# It is held, too, if the question has no answer: CANARY_OUT does not have the current version of OUT (annotate the
# canary once with the models of OUT), or OUT cannot be read. A limit on a table that there is not ends with exit code 2.
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

current_version() { # JSON of `versions list`, TABLE
    python -c '
import json, sys
print(next((row["version"] for row in json.load(sys.stdin) if row["table"] == sys.argv[1] and row["current"]), ""))' \
        "$2" <<<"$1"
}

hold() {
    echo "HELD, $out stays as it is: $1" >&2
    held=1
}

# the current versions of CANARY_OUT must be those just made, even if the canary has fewer clips than before
faceatlas annotate "$canary" "$canary_out" --bundle "$bundle" --follow-models "${options[@]}" --set store.promote_early=true
canary_versions=$(faceatlas versions list "$canary_out" --json)
complaint=$(mktemp)
trap 'rm -f "$complaint"' EXIT
held=0
if ! out_versions=$(faceatlas versions list "$out" --json 2>"$complaint"); then
    cat "$complaint" >&2
    out_versions="[]"
    # only an output that is new has nothing to be compared with
    grep -q "holds no Faceatlas tables" "$complaint" || hold "its versions cannot be listed"
fi
while read -r table limit; do
    [ -n "$table" ] || continue
    old=$(current_version "$out_versions" "$table")
    new=$(current_version "$canary_versions" "$table")
    if [ -z "$old$new" ]; then
        echo "LIMITS: neither $canary_out nor $out has a table '$table'" >&2
        exit 2
    fi
    if [ -z "$old" ] || [ "$old" = "$new" ]; then
        continue # nothing to compare: OUT or the table is new, or the model is the same
    fi
    status=0
    faceatlas versions diff "$canary_out" "$table" "$old" "$new" --limit "$limit" || status=$?
    if [ "$status" -ne 0 ]; then # 3: a limit is broken; 2: the canary never saw the current version of OUT
        hold "$table $old -> $new (exit code $status of versions diff)"
    fi
done <<<"$limits"
if [ "$held" -ne 0 ]; then
    exit 3
fi
faceatlas annotate "$corpus" "$out" --bundle "$bundle" --follow-models "${options[@]}"
