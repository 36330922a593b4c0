-- The shape of the second release: `conversation_state` beside `state_data`, the state of each widget in a row of its own,
-- and a tag on each call. The version columns, the triggers and the rest of the dual write come from the declaration
-- in src/conversations.rs.

ALTER TABLE chat_sessions ADD COLUMN conversation_state jsonb;

DO $$
BEGIN
    ALTER TABLE chat_sessions ALTER COLUMN conversation_state SET COMPRESSION lz4;
EXCEPTION WHEN feature_not_supported THEN
    RAISE NOTICE 'this PostgreSQL has no lz4';
END $$;

CREATE TABLE widget_metadata (
    -- CASCADE: the release before deletes conversations and knows nothing of this table.
    session_id text COLLATE "C" NOT NULL REFERENCES chat_sessions (session_id) ON DELETE CASCADE,
    widget_type text COLLATE "C" NOT NULL,
    widget_state jsonb NOT NULL,
    -- The row_version of the conversation's write that it came with.
    row_version bigint NOT NULL,
    updated_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (session_id, widget_type)
) WITH (fillfactor = 50);

-- The defaults are the release before: it does not name these columns, and its calls are to carry its version.
ALTER TABLE mcp_tool_calls
ADD COLUMN tool_version text,
ADD COLUMN response_schema_version smallint NOT NULL DEFAULT 1;
