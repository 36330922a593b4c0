-- What the second release alone knew is gone with this. It runs only when no replica of it lives.

-- squawk-ignore ban-drop-table
DROP TABLE IF EXISTS widget_metadata;

-- squawk-ignore ban-drop-column
ALTER TABLE mcp_tool_calls DROP COLUMN IF EXISTS tool_version;
-- squawk-ignore ban-drop-column
ALTER TABLE mcp_tool_calls DROP COLUMN IF EXISTS response_schema_version;
