-- What rollouts did and do. These tables are the operator's and no release's: no migration of an application touches them.

CREATE TABLE IF NOT EXISTS mcp_rollouts (
    id text COLLATE "C" PRIMARY KEY,
    goal text NOT NULL,
    platform text NOT NULL,
    started_by text NOT NULL,
    from_color text NOT NULL,
    to_color text NOT NULL,
    from_build text,
    to_build text,
    -- What is deployed: name and environment; NULL when only traffic moves.
    image jsonb,
    replicas bigint NOT NULL,
    -- open, done, rolled_back, failed, aborted
    state text NOT NULL DEFAULT 'open',
    reason text,
    approved_by text,
    -- What the live color's calls were like before the switch.
    baseline jsonb,
    report text,
    began_at timestamptz NOT NULL DEFAULT now(),
    switched_at timestamptz,
    ended_at timestamptz
);

CREATE UNIQUE INDEX IF NOT EXISTS mcp_rollouts_one_open ON mcp_rollouts (state) WHERE state = 'open';

CREATE TABLE IF NOT EXISTS mcp_rollout_steps (
    rollout text COLLATE "C" NOT NULL REFERENCES mcp_rollouts (id),
    step text NOT NULL,
    -- begun, passed, failed, skipped
    state text NOT NULL,
    words text NOT NULL DEFAULT '',
    details jsonb NOT NULL DEFAULT '[]',
    began_at timestamptz NOT NULL DEFAULT now(),
    ended_at timestamptz,
    PRIMARY KEY (rollout, step)
);

CREATE TABLE IF NOT EXISTS mcp_rollout_lease (
    the_one boolean PRIMARY KEY DEFAULT true CHECK (the_one),
    -- Counts the holders: whoever has a smaller one holds it no more.
    epoch bigint NOT NULL DEFAULT 0,
    holder text,
    -- Of the holder, so that its end can be seen on its own machine.
    host text,
    process bigint,
    process_born bigint,
    held_until timestamptz NOT NULL DEFAULT '-infinity'
);

INSERT INTO mcp_rollout_lease DEFAULT VALUES ON CONFLICT DO NOTHING;

-- The key of the digests in mcp_rollouts.image, in labels and in annotations. Whoever reads rollouts for a dashboard needs no
-- permission for this table.
CREATE TABLE IF NOT EXISTS mcp_rollout_key (
    the_one boolean PRIMARY KEY DEFAULT true CHECK (the_one),
    key text NOT NULL
);
