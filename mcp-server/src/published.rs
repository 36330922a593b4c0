//! What was published: widgets and contracts, of this build and of those before it.
//!
//! What must stay true: an address that any build ever gave out is answered by every build, with the bytes it had then. Hosts
//! cache widgets for an hour and keep their addresses for days (OpenAI, Apps SDK, deploy rules); only the current ones are
//! listed.

use std::sync::Arc;

use bg_runtime::{
    Database, Release,
    contract::Contract,
    database::{DatabaseError, Json, Row, SqlState, Type},
    storage::migration::Migration,
};
use rmcp::model::{JsonObject, MetaObject, ReadResourceResult, ResourceContents};
use serde::Serialize;
use serde_json::json;
use widgets::{MCP_APP, SKYBRIDGE, Widget};

use crate::{Tool, resource::Resource};

/// The tables of what was published.
pub const MIGRATION: Migration = Migration::new("0007_published", include_str!("../migrations/0007_published/expand.sql"));

/// A widget as it is served: one of its two addresses.
#[derive(Clone, Debug)]
pub(crate) struct Document {
    pub(crate) widget: &'static Widget,
    pub(crate) address: String,
    pub(crate) mime_type: &'static str,
    pub(crate) meta: JsonObject,
}

/// A widget that some build published.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PublishedWidget {
    /// Where hosts read it.
    pub address: String,
    /// How a host knows it.
    pub mime_type: String,
    /// How long its document is.
    pub bytes: i32,
    /// The build that published it first.
    pub published_by: String,
    /// When: RFC 3339, in UTC.
    pub published_at: String,
}

/// The contract of a build that has run here.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct KeptContract {
    /// Version and commit.
    pub build: String,
    /// The color it ran in last.
    pub color: String,
    /// When it was taken: RFC 3339, in UTC.
    pub taken_at: String,
    /// What it promises.
    pub contract: Contract,
}

/// What this build publishes, and what is read of others.
#[derive(Clone, Debug, Default)]
pub(crate) struct Published {
    documents: Arc<Vec<Document>>,
    database: Option<Database>,
}

const PUBLISH: &str = "INSERT INTO mcp_widgets (address, widget, mime_type, html, meta, published_by) \
     SELECT address, widget, mime_type, html, meta, $6 \
     FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::jsonb[]) AS new (address, widget, mime_type, html, meta) \
     ON CONFLICT DO NOTHING";
const READ: &str = "SELECT mime_type, html, meta FROM mcp_widgets WHERE address = $1";
const KEEP: &str = "INSERT INTO mcp_contracts (build, color, contract) VALUES ($1, $2, $3) \
     ON CONFLICT (build) DO UPDATE SET color = excluded.color, contract = excluded.contract, taken_at = now() \
     WHERE mcp_contracts.contract IS DISTINCT FROM excluded.contract OR mcp_contracts.color <> excluded.color";

const WIDGETS: &str = "SELECT address, mime_type, octet_length(html), published_by, \
     to_char(published_at AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"') FROM mcp_widgets ORDER BY published_at, address";
const WITHDRAW: &str = "DELETE FROM mcp_widgets WHERE address = $1";
const CONTRACTS: &str = "SELECT build, color, contract, to_char(taken_at AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"') \
     FROM mcp_contracts ORDER BY taken_at, build";

/// Every widget that is published in this database, the first one first.
///
/// # Errors
/// See [`DatabaseError`].
pub async fn widgets(database: &Database) -> Result<Vec<PublishedWidget>, DatabaseError> {
    let rows = published(database, WIDGETS).await?;
    let widget = |row: &Row| PublishedWidget {
        address: row.get(0),
        mime_type: row.get(1),
        bytes: row.get(2),
        published_by: row.get(3),
        published_at: row.get(4),
    };
    Ok(rows.iter().map(widget).collect())
}

/// Takes a widget back: conversations that show it show an error from then on, unless a build that lives has it. Whether it
/// was there.
///
/// # Errors
/// See [`DatabaseError`].
pub async fn withdraw(database: &Database, address: &str) -> Result<bool, DatabaseError> {
    Ok(database.get().await?.execute(WITHDRAW, &[(&address, Type::TEXT)]).await? > 0)
}

/// The contracts of the builds that have run on this database, the first one first.
///
/// # Errors
/// See [`DatabaseError`].
pub async fn contracts(database: &Database) -> Result<Vec<KeptContract>, DatabaseError> {
    let rows = published(database, CONTRACTS).await?;
    let kept = |row: &Row| {
        let Json(contract) = row.try_get(2).map_err(|_| DatabaseError::mismatch("a contract cannot be read"))?;
        Ok(KeptContract { build: row.get(0), color: row.get(1), contract, taken_at: row.get(3) })
    };
    rows.iter().map(kept).collect()
}

/// Nothing is published where nobody has migrated yet.
async fn published(database: &Database, sql: &'static str) -> Result<Vec<Row>, DatabaseError> {
    match database.get().await?.query(sql, &[]).await {
        Err(error) if error.sql_state() == Some(&SqlState::UNDEFINED_TABLE) => Ok(Vec::new()),
        rows => rows,
    }
}

impl<S> Tool<S> {
    /// The widget that draws what the tool answers; the widget may call the tool too. Both families of metadata are sent:
    /// MCP Apps' (`ui`) and ChatGPT's own (`openai/…`), with one address, as ChatGPT wants it.
    ///
    /// The application must serve it: [`App::widget`](crate::App::widget).
    #[must_use]
    pub fn widget(self, widget: &'static Widget) -> Self {
        let address = widget.address();
        let tool = self
            .meta("ui", json!({ "resourceUri": address, "visibility": ["model", "app"] }))
            // The spelling of MCP Apps before 2026-01-26, which hosts still read.
            .meta("ui/resourceUri", address.as_str())
            .meta("openai/outputTemplate", address.as_str())
            .meta("openai/widgetAccessible", true);
        let mut tool = tool;
        tool.description.drawn_by = Some(address);
        tool
    }

    /// What people read while the tool works, and once it is done: 64 characters each at most.
    #[must_use]
    pub fn says(self, working: &str, done: &str) -> Self {
        self.meta("openai/toolInvocation/invoking", working).meta("openai/toolInvocation/invoked", done)
    }
}

// === impl Document ===

impl Document {
    /// A widget under both of its addresses. The document is the same; hosts tell by the MIME type how it speaks.
    pub(crate) fn of(widget: &'static Widget) -> [Self; 2] {
        let meta = meta(widget);
        [(widget.address(), MCP_APP), (widget.skybridge_address(), SKYBRIDGE)].map(|(address, mime_type)| Self {
            widget,
            address,
            mime_type,
            meta: meta.clone(),
        })
    }

    /// The document as `resources/list` shows it.
    pub(crate) fn description(&self) -> rmcp::model::Resource {
        let mut resource = rmcp::model::Resource::new(&*self.address, self.widget.name);
        resource.title = self.widget.title.map(str::to_owned);
        resource.description = self.widget.description.map(str::to_owned);
        resource.mime_type = Some(self.mime_type.to_owned());
        resource.meta = Some(MetaObject(self.meta.clone()));
        resource
    }

    fn resource(&self) -> Resource {
        let document = self.clone();
        let read = move |_| {
            let contents = document.contents();
            async move { Ok(contents) }
        };
        Resource::new(&self.address, self.widget.name, read).described(|resource| *resource = self.description())
    }

    fn contents(&self) -> ReadResourceResult {
        contents(&self.address, self.mime_type, self.widget.html, self.meta.clone())
    }
}

/// What a host must be told of a widget, in both families. A host that reads the contents goes by those and not by the list.
fn meta(widget: &Widget) -> JsonObject {
    let csp = widget.csp;
    let mut ui = json!({
        "csp": {
            "connectDomains": csp.connect_domains,
            "resourceDomains": csp.resource_domains,
            "frameDomains": csp.frame_domains,
        },
    });
    let mut openai = json!({
        "openai/widgetCSP": {
            "connect_domains": csp.connect_domains,
            "resource_domains": csp.resource_domains,
            "frame_domains": csp.frame_domains,
            "redirect_domains": csp.redirect_domains,
        },
    });
    if let Some(domain) = widget.domain {
        ui["domain"] = domain.into();
        openai["openai/widgetDomain"] = domain.into();
    }
    if let Some(prefers_border) = widget.prefers_border {
        ui["prefersBorder"] = prefers_border.into();
        openai["openai/widgetPrefersBorder"] = prefers_border.into();
    }
    if let Some(description) = widget.description {
        openai["openai/widgetDescription"] = description.into();
    }
    let mut meta = JsonObject::new();
    meta.insert("ui".to_owned(), ui);
    if let serde_json::Value::Object(openai) = openai {
        meta.extend(openai);
    }
    meta
}

fn contents(address: &str, mime_type: &str, html: &str, meta: JsonObject) -> ReadResourceResult {
    ReadResourceResult::new(vec![ResourceContents::TextResourceContents {
        uri: address.to_owned(),
        mime_type: Some(mime_type.to_owned()),
        text: html.to_owned(),
        meta: Some(MetaObject(meta)),
    }])
}

// === impl Published ===

impl Published {
    /// What this build publishes. With a database it is published for every build, and theirs can be read here.
    pub(crate) fn new(widgets: &[&'static Widget], database: Option<Database>) -> Self {
        Self { documents: Arc::new(widgets.iter().flat_map(|widget| Document::of(widget)).collect()), database }
    }

    /// What this build publishes, to be listed and read.
    pub(crate) fn resources(&self) -> impl Iterator<Item = Resource> {
        self.documents.iter().map(Document::resource)
    }

    /// Writes this build's widgets and contract, so that the other color answers for them. Before the build is ready: nobody
    /// is told of an address that another process could not answer.
    pub(crate) async fn publish(&self, release: &Release, contract: &Contract) -> Result<(), DatabaseError> {
        let Some(database) = &self.database else { return Ok(()) };
        let (build, color) = (release.build(), release.color.to_string());
        let column = |part: fn(&Document) -> &str| self.documents.iter().map(part).collect::<Vec<_>>();
        let metas: Vec<_> = self.documents.iter().map(|document| Json(&document.meta)).collect();
        let connection = database.get().await?;
        connection
            .execute(
                PUBLISH,
                &[
                    (&column(|document| &document.address), Type::TEXT_ARRAY),
                    (&column(|document| document.widget.name), Type::TEXT_ARRAY),
                    (&column(|document| document.mime_type), Type::TEXT_ARRAY),
                    (&column(|document| document.widget.html), Type::TEXT_ARRAY),
                    (&metas, Type::JSONB_ARRAY),
                    (&build, Type::TEXT),
                ],
            )
            .await?;
        let contract = Json(contract);
        connection.execute(KEEP, &[(&build, Type::TEXT), (&color, Type::TEXT), (&contract, Type::JSONB)]).await?;
        Ok(())
    }

    /// A widget that another build published.
    pub(crate) async fn read(&self, address: &str) -> Result<Option<ReadResourceResult>, DatabaseError> {
        let Some(database) = self.database.as_ref().filter(|_| address.starts_with("ui://widgets/") && !address.contains('\0'))
        else {
            return Ok(None);
        };
        let row = database.get().await?.query_opt(READ, &[(&address, Type::TEXT)]).await?;
        Ok(row.map(|row| {
            let Json(meta): Json<JsonObject> = row.get(2);
            contents(address, row.get(0), row.get(1), meta)
        }))
    }
}
