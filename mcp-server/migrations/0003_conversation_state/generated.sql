ALTER TABLE chat_sessions ADD COLUMN IF NOT EXISTS row_version bigint NOT NULL DEFAULT 0, ADD COLUMN IF NOT EXISTS writer_schema smallint NOT NULL DEFAULT 1, ADD COLUMN IF NOT EXISTS conversation_state jsonb, ADD COLUMN IF NOT EXISTS conv_version bigint;
CREATE OR REPLACE FUNCTION mcp_lens_chat_sessions_state_data(conversation_state jsonb) RETURNS jsonb LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $lens$SELECT (conversation_state)::jsonb$lens$;
CREATE OR REPLACE FUNCTION mcp_lens_chat_sessions_conversation_state(conversation_state jsonb, state_data jsonb) RETURNS jsonb LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $lens$SELECT (state_data)::jsonb$lens$;
CREATE OR REPLACE FUNCTION mcp_dual_write_chat_sessions() RETURNS trigger LANGUAGE plpgsql SET search_path = public, pg_temp AS $mcp$
-- Generated from the declaration of 0003_conversation_state; the validator compares it with what the declaration says.
DECLARE
    least smallint;
BEGIN
    IF current_setting('transaction_isolation') <> 'read committed' THEN
        RAISE EXCEPTION 'writes to chat_sessions need the isolation level read committed' USING ERRCODE = 'MC004';
    END IF;
    IF TG_OP = 'INSERT' THEN
        IF NEW.row_version = 0 THEN
            IF NEW.conversation_state IS NOT NULL THEN
                RAISE EXCEPTION 'new columns of chat_sessions were written without row_version' USING ERRCODE = 'MC003';
            END IF;
            NEW.row_version := 1;
            NEW.writer_schema := 1;
        ELSIF NEW.row_version <> 1 THEN
            RAISE EXCEPTION 'a new row of chat_sessions has row_version 1' USING ERRCODE = 'MC002';
        END IF;
    ELSIF NEW.row_version = OLD.row_version THEN
        IF NEW.conversation_state IS DISTINCT FROM OLD.conversation_state THEN
            RAISE EXCEPTION 'new columns of chat_sessions were written without raising row_version' USING ERRCODE = 'MC003';
        END IF;
        IF NOT (NEW.state_data IS DISTINCT FROM OLD.state_data) THEN
            -- Nothing was said: a touch, or the backfill. What is stale is made from the side that was written last.
            IF NEW.conv_version IS DISTINCT FROM NEW.row_version THEN
                IF NEW.writer_schema = 2 AND (NEW.conversation_state IS NOT NULL) THEN
                    NEW.state_data := mcp_lens_chat_sessions_state_data(NEW.conversation_state);
                ELSE
                    NEW.conversation_state := mcp_lens_chat_sessions_conversation_state(OLD.conversation_state, NEW.state_data);
                END IF;
                NEW.conv_version := NEW.row_version;
            END IF;
            RETURN NEW;
        END IF;
        -- A writer that has never heard of versions.
        NEW.row_version := OLD.row_version + 1;
        NEW.writer_schema := 1;
    ELSIF NEW.row_version <> OLD.row_version + 1 THEN
        RAISE EXCEPTION 'row_version of chat_sessions may only grow by one' USING ERRCODE = 'MC002';
    END IF;
    SELECT min_writer INTO least FROM mcp_migrations WHERE name = '0003_conversation_state';
    IF NEW.writer_schema < least THEN
        RAISE EXCEPTION 'chat_sessions takes no writes of schema % any more', NEW.writer_schema USING ERRCODE = 'MC001';
    END IF;
    IF NEW.writer_schema = 1 THEN
        IF TG_OP = 'INSERT' THEN
            NEW.conversation_state := mcp_lens_chat_sessions_conversation_state(NULL::jsonb, NEW.state_data);
        ELSE
            NEW.conversation_state := mcp_lens_chat_sessions_conversation_state(OLD.conversation_state, NEW.state_data);
        END IF;
    ELSIF NEW.writer_schema = 2 THEN
        NEW.state_data := mcp_lens_chat_sessions_state_data(NEW.conversation_state);
    ELSE
        RAISE EXCEPTION 'chat_sessions knows no schema %', NEW.writer_schema USING ERRCODE = 'MC005';
    END IF;
    NEW.conv_version := NEW.row_version;
    RETURN NEW;
END
$mcp$;
CREATE OR REPLACE FUNCTION mcp_dual_guard_chat_sessions() RETURNS trigger LANGUAGE plpgsql AS $mcp$
BEGIN
    RAISE EXCEPTION 'old columns of chat_sessions were written under the tag of the new ones' USING ERRCODE = 'MC003';
END
$mcp$;
DROP TRIGGER IF EXISTS zzz_mcp_dual_write ON chat_sessions; DROP TRIGGER IF EXISTS zzy_mcp_dual_guard ON chat_sessions;
CREATE TRIGGER zzz_mcp_dual_write BEFORE INSERT OR UPDATE ON chat_sessions FOR EACH ROW EXECUTE FUNCTION mcp_dual_write_chat_sessions();
CREATE TRIGGER zzy_mcp_dual_guard BEFORE UPDATE OF state_data ON chat_sessions FOR EACH ROW WHEN (NEW.row_version <> OLD.row_version AND NEW.writer_schema = 2 AND ((NEW.state_data IS DISTINCT FROM OLD.state_data AND NEW.state_data IS DISTINCT FROM mcp_lens_chat_sessions_state_data(NEW.conversation_state)))) EXECUTE FUNCTION mcp_dual_guard_chat_sessions();
