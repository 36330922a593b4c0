"""Occurrences of an iCalendar file, computed by somebody else.

    pip install recurring-ical-events==3.8.2
    calendar_oracle.py FILE FROM UNTIL ZONE

FROM and UNTIL are dates, ZONE is where times without a zone are. Prints a JSON list, sorted, of the occurrences that start in
between: uid, start and end in UTC, all_day, title, status. What it cannot read it leaves out.
"""

import datetime
import json
import sys
import zoneinfo

import icalendar
import recurring_ical_events


def instant(value, zone):
    if not isinstance(value, datetime.datetime):
        value = datetime.datetime.combine(value, datetime.time())
    if value.tzinfo is None:
        value = value.replace(tzinfo=zone)
    return value.astimezone(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


def occurrence(event, zone):
    start, end = event.start, event.end
    status = str(event.get("STATUS", "CONFIRMED")).lower()
    return {
        "uid": str(event.get("UID", "")),
        "start": instant(start, zone),
        "end": instant(end, zone),
        "all_day": not isinstance(start, datetime.datetime),
        "title": str(event.get("SUMMARY", "(untitled)")).strip(),
        "status": {"tentative": "pending"}.get(status, status),
    }


def main(path, since, until, zone):
    zone = zoneinfo.ZoneInfo(zone)
    with open(path, "rb") as file:
        calendars = icalendar.Calendar.from_ical(file.read(), multiple=True)
    found = []
    for calendar in calendars:
        # The library moves events in UTC into X-WR-TIMEZONE before it repeats them; RFC 5545 repeats them in UTC.
        named = calendar.pop("X-WR-TIMEZONE", None)
        here = zoneinfo.ZoneInfo(str(named)) if named else zone
        window = [datetime.datetime.fromisoformat(day).replace(tzinfo=datetime.timezone.utc) for day in (since, until)]
        query = recurring_ical_events.of(calendar, skip_bad_series=True)
        found += [occurrence(event, here) for event in query.between(*window)]
    first, last = (day + "T00:00:00Z" for day in (since, until))
    found = [one for one in found if first <= one["start"] < last]
    found.sort(key=lambda one: (one["start"], one["uid"], one["end"]))
    json.dump(found, sys.stdout, indent=1, ensure_ascii=False)
    print()


if __name__ == "__main__":
    main(*sys.argv[1:])
