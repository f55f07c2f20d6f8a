#!/bin/bash
# Delete the slice that this host belongs to, when nobody watches it any more or its time is over.
#
# The startup script of every host (support/gcloud.py): it runs from the boot on, before anybody has logged in. Whoever
# watches the slice raises a counter in an object of the bucket. When that has not changed for still-seconds, or the host
# is older than most-seconds, the request for the slice is deleted, and with it the slice and this process. What cannot be
# read has not changed. Time is the host's uptime: no clocks are compared. The host's service account needs the role
# roles/tpu.admin for this.

attribute() {
  curl --silent --fail --retry 10 --retry-all-errors --header "Metadata-Flavor: Google" \
    "http://metadata.google.internal/computeMetadata/v1/instance/attributes/lossgrid-$1"
}

uptime_seconds() {
  cut -d. -f1 /proc/uptime
}

name=$(attribute name)
zone=$(attribute zone)
beat=$(attribute beat)
still=$(attribute still-seconds)
most=$(attribute most-seconds)
shorter=$((still < most ? still : most))
look=$((shorter / 10 + 1))

if [ -z "$name" ] || [ -z "$still" ] || [ -z "$most" ]; then
  echo "lossgrid: this host's metadata cannot be read; it will not delete itself" >&2
  exit 1
fi

born=$(uptime_seconds)
moved=$born
seen=""
while true; do
  now=$(uptime_seconds)
  read_now=$(gcloud storage cat "$beat" --quiet 2>/dev/null)
  if [ -n "$read_now" ] && [ "$read_now" != "$seen" ]; then
    seen=$read_now
    moved=$now
  fi
  why=""
  if [ $((now - moved)) -ge "$still" ]; then why="nobody has watched it for $still seconds"; fi
  if [ $((now - born)) -ge "$most" ]; then why="its $most seconds are over"; fi
  if [ -n "$why" ]; then
    echo "lossgrid: deleting $name: $why"
    gcloud compute tpus queued-resources delete "$name" --zone="$zone" --force --quiet --async
  fi
  sleep "$look"
done
