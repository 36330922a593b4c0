-- What a conversation leaves behind: its state, and a line for each call. This is the shape of the first release.

CREATE TABLE chat_sessions (
    -- "C" keeps the order of keys the same on every machine, which a backfill page by page stands on.
    session_id text COLLATE "C" PRIMARY KEY,
    principal text COLLATE "C" NOT NULL,
    state_data jsonb NOT NULL DEFAULT '{}',
    -- Every write raises it by one and names the version it was based on. 0: written by somebody who does not know of it.
    row_version bigint NOT NULL DEFAULT 0,
    -- Which release's shape the last write had.
    writer_schema smallint NOT NULL DEFAULT 1,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz
    -- Half of each page is left free, so that a new version of a row fits beside the old one and no index is touched. While
    -- there are two shapes a row holds its document twice: up to half a page it stays in the row, where PostgreSQL would put
    -- one of them into the TOAST table, which is two more writes.
) WITH (fillfactor = 50, toast_tuple_target = 4080);

-- Documents of a few kilobytes are compressed at each write: lz4 does it in a fifth of the time. A server that was built
-- without it keeps its default.
DO $$
BEGIN
    ALTER TABLE chat_sessions ALTER COLUMN state_data SET COMPRESSION lz4;
EXCEPTION WHEN feature_not_supported THEN
    RAISE NOTICE 'this PostgreSQL has no lz4';
END $$;

-- Old rows are found by these, which no write has to touch: BRIN says for a range of pages what is in it.
CREATE INDEX chat_sessions_by_age ON chat_sessions USING brin (created_at);
CREATE INDEX chat_sessions_expiring ON chat_sessions (expires_at) WHERE expires_at IS NOT NULL;

CREATE TABLE mcp_tool_calls (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    session_id text COLLATE "C" NOT NULL,
    tool_name text COLLATE "C" NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
);

CREATE INDEX mcp_tool_calls_by_session ON mcp_tool_calls (session_id, created_at);
CREATE INDEX mcp_tool_calls_by_age ON mcp_tool_calls USING brin (created_at);
