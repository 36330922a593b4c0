-- What a conversation is bound to, and what each replica still has to do: what an operator must know before a color goes.

CREATE TABLE mcp_pins (
    -- As in chat_sessions.
    conversation text COLLATE "C" PRIMARY KEY,
    -- The build that answers its calls.
    build text COLLATE "C" NOT NULL,
    -- The boundary at which it may move; NULL is none.
    boundary text COLLATE "C",
    began_at timestamptz NOT NULL DEFAULT now(),
    used_at timestamptz NOT NULL DEFAULT now()
    -- Every call of a pinned conversation writes its row: a page half full keeps that beside it.
) WITH (fillfactor = 50);

CREATE INDEX mcp_pins_by_build ON mcp_pins (build);

CREATE TABLE mcp_drainage (
    -- As in mcp_replicas, which says whether it lives.
    instance text COLLATE "C" PRIMARY KEY,
    build text COLLATE "C" NOT NULL,
    color text NOT NULL,
    -- Where other replicas reach it; NULL: it cannot be reached.
    address text,
    stage text NOT NULL,
    role text NOT NULL,
    calls bigint NOT NULL,
    streams bigint NOT NULL,
    said_at timestamptz NOT NULL DEFAULT now()
);

-- What a client is asked to carry for us is sealed with these, so that another process opens it.
CREATE TABLE mcp_request_state_keys (
    kid text COLLATE "C" PRIMARY KEY,
    secret bytea NOT NULL,
    made_at timestamptz NOT NULL DEFAULT now()
);
