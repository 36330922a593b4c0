-- Row-level security, as in 0008_row_security: a caller's statements reach the caller's appointments alone.

ALTER TABLE appointments ENABLE ROW LEVEL SECURITY;
ALTER TABLE appointments FORCE ROW LEVEL SECURITY;
CREATE POLICY own ON appointments USING (
    coalesce((SELECT current_setting('mcp.principal', true)), '') IN ('', user_id)
);
