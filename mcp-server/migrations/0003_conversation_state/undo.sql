-- What the second release alone knew is gone with this.

DROP TABLE IF EXISTS widget_metadata;

ALTER TABLE mcp_tool_calls
DROP COLUMN IF EXISTS tool_version,
DROP COLUMN IF EXISTS response_schema_version;
