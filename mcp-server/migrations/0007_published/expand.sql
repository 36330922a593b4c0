-- What was published stays readable: hosts keep widgets' addresses and tools' contracts for days, whichever color published
-- them. A row is written when a build starts, and goes only by hand.

CREATE TABLE mcp_widgets (
    -- It carries a hash of the document, so a row never changes.
    address text COLLATE "C" PRIMARY KEY,
    widget text COLLATE "C" NOT NULL,
    mime_type text NOT NULL,
    html text NOT NULL,
    meta jsonb NOT NULL DEFAULT '{}',
    published_by text NOT NULL,
    published_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE mcp_contracts (
    -- Version and commit.
    build text COLLATE "C" PRIMARY KEY,
    color text NOT NULL,
    contract jsonb NOT NULL,
    taken_at timestamptz NOT NULL DEFAULT now()
);
