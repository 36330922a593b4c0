-- Row-level security for what names no owner itself: it belongs to whoever has the session or the conversation it is of. A
-- sub-select in a policy obeys the policy of the table that it reads, so it finds the caller's sessions and no others. Where
-- the setting mcp.principal is empty, the sub-selects are not evaluated. See 0008_row_security.

-- step: streams
ALTER TABLE mcp_streams ENABLE ROW LEVEL SECURITY;
ALTER TABLE mcp_streams FORCE ROW LEVEL SECURITY;
CREATE POLICY own ON mcp_streams USING (
    coalesce((SELECT current_setting('mcp.principal', true)), '') = ''
    OR EXISTS (SELECT FROM mcp_sessions AS owner WHERE owner.session_id = mcp_streams.session_id)
);

-- step: events
ALTER TABLE mcp_stream_events ENABLE ROW LEVEL SECURITY;
ALTER TABLE mcp_stream_events FORCE ROW LEVEL SECURITY;
-- An event is of a request's stream, or of the stream that a session has for itself.
CREATE POLICY own ON mcp_stream_events USING (
    coalesce((SELECT current_setting('mcp.principal', true)), '') = ''
    OR EXISTS (SELECT FROM mcp_streams AS owner WHERE owner.stream_id::text = mcp_stream_events.stream)
    OR EXISTS (SELECT FROM mcp_sessions AS owner WHERE owner.session_id::text || ':common' = mcp_stream_events.stream)
);

-- step: calls
ALTER TABLE mcp_tool_calls ENABLE ROW LEVEL SECURITY;
ALTER TABLE mcp_tool_calls FORCE ROW LEVEL SECURITY;
-- The line of a conversation's first call is written in one statement with the conversation, which a sub-select does not see
-- yet. What is written is therefore checked by the key of the conversation, which ends with a digest of its principal.
CREATE POLICY own ON mcp_tool_calls USING (
    coalesce((SELECT current_setting('mcp.principal', true)), '') = ''
    OR EXISTS (SELECT FROM chat_sessions AS owner WHERE owner.session_id = mcp_tool_calls.session_id)
) WITH CHECK (
    coalesce((SELECT current_setting('mcp.principal', true)), '') = ''
    OR right(session_id, 33)
    = '#' || left(encode(sha256(convert_to((SELECT current_setting('mcp.principal', true)), 'UTF8')), 'hex'), 32)
);

-- step: pins
ALTER TABLE mcp_pins ENABLE ROW LEVEL SECURITY;
ALTER TABLE mcp_pins FORCE ROW LEVEL SECURITY;
CREATE POLICY own ON mcp_pins USING (
    coalesce((SELECT current_setting('mcp.principal', true)), '') = ''
    OR EXISTS (SELECT FROM chat_sessions AS owner WHERE owner.session_id = mcp_pins.conversation)
);

-- step: keys
-- They are no caller's.
ALTER TABLE mcp_request_state_keys ENABLE ROW LEVEL SECURITY;
ALTER TABLE mcp_request_state_keys FORCE ROW LEVEL SECURITY;
CREATE POLICY nobody ON mcp_request_state_keys USING (
    coalesce((SELECT current_setting('mcp.principal', true)), '') = ''
);
