-- One row for each call of a tool that may change something: who called what, when, on which build, and how it ended. It holds
-- no arguments and no results: these are in the application's own rows, under the application's own retention.

CREATE TABLE mcp_audit (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    occurred_at timestamptz NOT NULL DEFAULT now(),
    -- The subject of the caller's token; '' is a caller who proved nothing.
    principal text COLLATE "C" NOT NULL,
    tool text COLLATE "C" NOT NULL,
    -- ok, replayed, tool_error, input_required, or why there is no result: a JSON-RPC code, timeout, cancelled, cut.
    outcome text COLLATE "C" NOT NULL,
    -- What was changed, as the tool names it: a kind and an id.
    object text,
    color text NOT NULL,
    build text COLLATE "C" NOT NULL
);

CREATE INDEX mcp_audit_by_principal ON mcp_audit (principal, occurred_at);
-- Rows are written in the order of their times, so a range of pages tells which ones are old.
CREATE INDEX mcp_audit_by_age ON mcp_audit USING brin (occurred_at);

-- As in 0008_row_security, and one thing more: a statement in a caller's name adds the caller's rows and reads them, and
-- changes and deletes none.
ALTER TABLE mcp_audit ENABLE ROW LEVEL SECURITY;
ALTER TABLE mcp_audit FORCE ROW LEVEL SECURITY;
CREATE POLICY own ON mcp_audit FOR SELECT USING (principal = (SELECT current_setting('mcp.principal', true)));
CREATE POLICY added ON mcp_audit FOR INSERT WITH CHECK (principal = (SELECT current_setting('mcp.principal', true)));
CREATE POLICY maintained ON mcp_audit USING (coalesce((SELECT current_setting('mcp.principal', true)), '') = '');
