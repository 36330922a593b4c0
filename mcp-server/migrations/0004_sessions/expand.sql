-- What a client of a revision up to 2025-11-25 holds on to: its session, and the streams it reads. All of it can be lost
-- at the price of clients beginning anew, and none of it is older than the times below.

CREATE TABLE mcp_sessions (
    session_id uuid PRIMARY KEY,
    -- Whose it is; '' is somebody who proved nothing. A session id alone gives access to nothing.
    principal text COLLATE "C" NOT NULL,
    -- The parameters of its `initialize`, as JSON, with the revision that was agreed on.
    initialize text NOT NULL,
    log_level text,
    subscriptions text [] NOT NULL DEFAULT '{}',
    -- Where it began.
    color text NOT NULL,
    build text NOT NULL,
    opened_at timestamptz NOT NULL DEFAULT now(),
    -- NULL: opened and never used.
    used_at timestamptz,
    -- A tombstone: whoever still has the session in memory hears that it has ended, and a late write brings nothing back.
    ended_at timestamptz
    -- No index on the times: touching a session would write it too, and the reaper reads the table now and then.
) WITH (fillfactor = 70);

-- A request that is answered with a stream, as it came: whoever takes over from a process that died runs it again.
CREATE TABLE mcp_streams (
    stream_id uuid PRIMARY KEY,
    session_id uuid NOT NULL,
    request text NOT NULL,
    -- The replica that answers it, as in mcp_replicas.
    instance text NOT NULL,
    -- The stream of the second attempt.
    continued_by uuid,
    began_at timestamptz NOT NULL DEFAULT now()
);

-- A client's response to a question of ours is handed to whoever asked.
CREATE INDEX mcp_streams_by_session ON mcp_streams (session_id);

CREATE TABLE mcp_stream_events (
    -- A stream_id, or the name of a session's own stream.
    stream text COLLATE "C" NOT NULL,
    number bigint GENERATED ALWAYS AS IDENTITY,
    message text NOT NULL,
    -- Whether it is the answer, after which the stream ends.
    is_answer boolean NOT NULL,
    stored_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (stream, number)
);
