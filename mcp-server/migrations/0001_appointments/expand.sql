-- Appointments: what was booked here, and what was imported from a calendar.
--
-- btree_gist lets one exclusion constraint compare text, uuid and a time range. It is a trusted extension since
-- PostgreSQL 13: the owner of the database may create it.
CREATE EXTENSION IF NOT EXISTS btree_gist;

CREATE TABLE appointments (
    id uuid PRIMARY KEY,
    -- "C" keeps the order of keys the same on every machine; locale upgrades reorder text.
    user_id text COLLATE "C" NOT NULL CHECK (user_id <> ''),
    title text NOT NULL,
    starts_at timestamptz NOT NULL,
    ends_at timestamptz NOT NULL,
    -- The zone the times were said in, an IANA name: 09:00 in Berlin stays 09:00 in Berlin.
    time_zone text NOT NULL DEFAULT 'UTC',
    all_day boolean NOT NULL DEFAULT false,
    location text,
    description text,
    status text NOT NULL DEFAULT 'confirmed' CHECK (status IN ('confirmed', 'pending', 'cancelled')),
    -- Where an imported appointment came from: the UID and RECURRENCE-ID of RFC 5545. NULL when booked here.
    source_uid text COLLATE "C",
    source_recurrence text COLLATE "C" NOT NULL DEFAULT '',
    source_sequence bigint NOT NULL DEFAULT 0,
    -- Rows of one lane may overlap, rows of two lanes may not. Imported rows share the nil lane, because a real
    -- calendar overlaps itself; a booking has a lane of its own, so it takes its slot from everybody else.
    lane uuid NOT NULL,
    blocks boolean NOT NULL DEFAULT true,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT appointments_end_after_start CHECK (ends_at >= starts_at),
    CONSTRAINT appointments_slot_taken EXCLUDE USING gist (
        user_id WITH =, lane WITH <>, tstzrange(starts_at, ends_at) WITH &&
    ) WHERE (blocks AND status <> 'cancelled')
);

-- The order of a search, page by page. With the end in it, what ended long ago is passed over in the index alone.
CREATE INDEX appointments_by_start ON appointments (user_id, starts_at, id, ends_at);

CREATE UNIQUE INDEX appointments_by_source ON appointments (user_id, source_uid, source_recurrence)
WHERE source_uid IS NOT NULL;
