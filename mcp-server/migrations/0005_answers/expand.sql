-- The first answer of a call that acts, so that the same call made again gets it again and acts no more.

CREATE TABLE mcp_answers (
    principal text COLLATE "C" NOT NULL,
    tool text COLLATE "C" NOT NULL,
    -- The caller's key, or a hash of the arguments.
    key text COLLATE "C" NOT NULL,
    -- NULL only inside the transaction that acts: the row and what was done become visible together.
    answer text,
    answered_at timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz NOT NULL,
    PRIMARY KEY (principal, tool, key)
);
