-- Row-level security: whoever calls in somebody's name reads and changes what is theirs, whatever the statement says.
--
-- The name is the setting mcp.principal, which lasts for a transaction. Where it is not set, nobody in particular is meant:
-- the release before, which does not know of it, the reapers, and an operator with psql. FORCE, because the owner of the
-- tables is who connects. A sub-select is evaluated once for a statement and not for each row.

-- step: conversations
-- widget_metadata has no owner and no policy: its rows are written in one statement with their conversation, which a policy that
-- looks for that would not see yet.
ALTER TABLE chat_sessions ENABLE ROW LEVEL SECURITY;
ALTER TABLE chat_sessions FORCE ROW LEVEL SECURITY;
CREATE POLICY own ON chat_sessions USING (
    coalesce((SELECT current_setting('mcp.principal', true)), '') IN ('', principal)
);

-- step: sessions
ALTER TABLE mcp_sessions ENABLE ROW LEVEL SECURITY;
ALTER TABLE mcp_sessions FORCE ROW LEVEL SECURITY;
CREATE POLICY own ON mcp_sessions USING (
    coalesce((SELECT current_setting('mcp.principal', true)), '') IN ('', principal)
);

-- step: answers
ALTER TABLE mcp_answers ENABLE ROW LEVEL SECURITY;
ALTER TABLE mcp_answers FORCE ROW LEVEL SECURITY;
-- '=' stands before the name of somebody who proved it.
CREATE POLICY own ON mcp_answers USING (
    coalesce((SELECT current_setting('mcp.principal', true)), '') = ''
    OR principal = '=' || (SELECT current_setting('mcp.principal', true))
);
