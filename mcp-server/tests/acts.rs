//! What calls that change something promise: each acts once, and what makes two calls the same is what the caller said, the
//! responses to questions included; a remembered response never contradicts the schema that the client knows; and whoever
//! cannot be asked a question is told what is missing.

#![expect(clippy::unwrap_used, reason = "what a test needs fails the test when it is missing")]

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use bg_runtime::{
    Color, Release,
    database::{Database, DatabaseConfig, Type},
    storage::{Control, Replica, migration::Migration},
};
use mcp_server::{
    App, HttpConfig, MIGRATIONS, Reply, Tool, ToolError,
    answers::{Begun, Once},
    audit::Audit,
    authentication::Authentication,
    extract::{Inputs, Parameters, State},
    reply::{IntoReply, Writer, Written},
    rmcp::model::{CallToolResponse, InputRequiredResult},
    testing::{self, Server},
    tool::Description,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

const LONG: Duration = Duration::from_secs(60);

const ORDERS: Migration = Migration::new(
    "0100_orders",
    "CREATE TABLE orders (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, pizza text NOT NULL, address text NOT NULL)",
);

#[derive(Deserialize, JsonSchema)]
struct Pizza {
    pizza: String,
}

/// What version 1 answers.
#[derive(Serialize, JsonSchema)]
struct Order {
    id: i64,
    pizza: String,
}

/// What version 2 answers.
#[derive(Serialize, JsonSchema)]
struct AddressedOrder {
    id: i64,
    pizza: String,
    address: String,
}

/// A typed reply, or a question.
enum OrAsk<T> {
    Reply(Reply<T>),
    Ask(InputRequiredResult),
}

impl<T: Serialize + JsonSchema> IntoReply for OrAsk<T> {
    fn describe(description: &mut Description) {
        Reply::<T>::describe(description);
        CallToolResponse::describe(description);
    }

    fn write(self, writer: Writer) -> Result<Written, ToolError> {
        match self {
            Self::Reply(reply) => reply.write(writer),
            Self::Ask(question) => CallToolResponse::from(question).write(writer),
        }
    }
}

async fn order<T: Serialize>(
    database: Database,
    pizza: String,
    inputs: Inputs,
    once: Once,
    reply: impl FnOnce(i64, String, String) -> T + Send,
) -> Result<OrAsk<T>, ToolError> {
    let address = inputs.responses.get("address").and_then(|response| response["content"]["address"].as_str());
    let Some(address) = address else {
        let form = json!({ "type": "object", "properties": { "address": { "type": "string" } }, "required": ["address"] });
        let question = json!({ "address": { "method": "elicitation/create", "params": {
            "mode": "form", "message": "Where to?", "requestedSchema": form,
        } } });
        let state = inputs.seal(&pizza)?;
        return Ok(OrAsk::Ask(InputRequiredResult::new(serde_json::from_value(question).unwrap(), Some(state))));
    };
    let mut connection = database.get().await?;
    let act = match once.begin(&mut connection).await? {
        Begun::Before(reply) => return Ok(OrAsk::Reply(reply)),
        Begun::First(act) => act,
    };
    let insert = "INSERT INTO orders (pizza, address) VALUES ($1, $2) RETURNING id";
    let row = act.transaction().query_opt(insert, &[(&pizza, Type::TEXT), (&address, Type::TEXT)]).await?;
    let id: i64 = row.unwrap().get(0);
    let text = format!("Order {id}: {pizza} to {address}.");
    Ok(OrAsk::Reply(act.answer(Reply::new(reply(id, pizza, address.to_owned()), text)).await?))
}

async fn order_1(
    State(database): State<Database>,
    Parameters(Pizza { pizza }): Parameters<Pizza>,
    inputs: Inputs,
    once: Once,
) -> Result<OrAsk<Order>, ToolError> {
    order(database, pizza, inputs, once, |id, pizza, _| Order { id, pizza }).await
}

async fn order_2(
    State(database): State<Database>,
    Parameters(Pizza { pizza }): Parameters<Pizza>,
    inputs: Inputs,
    once: Once,
) -> Result<OrAsk<AddressedOrder>, ToolError> {
    order(database, pizza, inputs, once, |id, pizza, address| AddressedOrder { id, pizza, address }).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_order_with_another_address_is_placed_and_the_same_order_is_not() {
    let desk = Desk::open("address").await;
    let server = desk.start(Color::Blue, Tool::new("order", order_1)).await;
    let first = answered(&server, &question(&server).await, "Main St 1, Berlin").await;
    assert_eq!(text(&first), "Order 1: diavola to Main St 1, Berlin.");
    // Asked anew, so with another seal, and the same in all that a person said.
    let again = answered(&server, &question(&server).await, "Main St 1, Berlin").await;
    assert_eq!(text(&again), "Order 1: diavola to Main St 1, Berlin.", "the same order within a minute is one order");
    let other = answered(&server, &question(&server).await, "Side St 2, Bonn").await;
    assert_eq!(text(&other), "Order 2: diavola to Side St 2, Bonn.", "{other}");
    assert_eq!(other["structuredContent"], json!({ "id": 2, "pizza": "diavola" }));
    // Both are remembered, each for itself.
    for (address, id) in [("Main St 1, Berlin", 1), ("Side St 2, Bonn", 2)] {
        let again = answered(&server, &question(&server).await, address).await;
        assert_eq!(again["structuredContent"]["id"], id, "{again}");
    }
    // What a client notes beside a response is no part of it.
    let state = question(&server).await;
    let noted = json!({ "action": "accept", "content": { "address": "Side St 2, Bonn" }, "_meta": { "sent": 4711 } });
    assert_eq!(respond(&server, &state, &json!({ "address": noted })).await["structuredContent"]["id"], 2);
    assert_eq!(desk.count("SELECT count(*) FROM orders").await, 2);
    desk.close([server]).await;
}

/// The color before compares arguments alone, and does not know what this build adds to a remembered answer.
#[tokio::test(flavor = "multi_thread")]
async fn an_answered_call_of_either_color_is_not_made_again_in_the_other() {
    let desk = Desk::open("colors").await;
    let server = desk.start(Color::Green, Tool::new("order", order_1)).await;
    // As 21443b4 writes it: the key is a digest of the arguments.
    let key = desk.text("SELECT 'arguments ' || encode(sha256('{\"pizza\":\"diavola\"}'), 'hex')").await;
    let old = r#"{"text":"Order 7: diavola to Main St 1, Berlin.","data":{"id":7,"pizza":"diavola"},"meta":null}"#;
    let write = "INSERT INTO mcp_answers (principal, tool, key, answer, expires_at) \
                 VALUES ('=ada', 'order', $1, $2, now() + interval '1 minute')";
    desk.database.get().await.unwrap().execute(write, &[(&key, Type::TEXT), (&old, Type::TEXT)]).await.unwrap();
    let replayed = answered(&server, &question(&server).await, "Main St 1, Berlin").await;
    assert_eq!(replayed["structuredContent"]["id"], 7, "{replayed}");
    assert_eq!(desk.count("SELECT count(*) FROM orders").await, 0);

    desk.database.get().await.unwrap().execute("DELETE FROM mcp_answers", &[]).await.unwrap();
    let first = answered(&server, &question(&server).await, "Main St 1, Berlin").await;
    assert_eq!(first["structuredContent"]["id"], 1);
    // How 21443b4 looks for the same call: it finds the answer where it would have written it, in a form that it reads.
    let found = "SELECT (answer::jsonb -> 'data' ->> 'id') || ' ' || (answer::jsonb ->> 'text') FROM mcp_answers \
                 WHERE principal = '=ada' AND tool = 'order' AND key LIKE 'arguments %' AND expires_at > now()";
    assert_eq!(desk.text(found).await, "1 Order 1: diavola to Main St 1, Berlin.");
    assert_eq!(desk.count("SELECT count(*) FROM mcp_answers WHERE key LIKE 'arguments %'").await, 1);
    desk.close([server]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_release_remembers_is_told_in_words_where_the_other_promises_more() {
    let desk = Desk::open("schemas").await;
    let blue = desk.start(Color::Blue, Tool::new("order", order_1)).await;
    let green = desk.start(Color::Green, Tool::new("order", order_2)).await;
    answered(&blue, &question(&blue).await, "Main St 1, Berlin").await;
    let told = answered(&green, &question(&green).await, "Main St 1, Berlin").await;
    assert_eq!(told["isError"], true, "{told}");
    assert!(told.get("structuredContent").is_none(), "a client that validates would reject it: {told}");
    let words = text(&told);
    assert!(
        words.starts_with("This call was already carried out, by release 1.0.0+blue; it was not carried out again"),
        "{words}"
    );
    assert!(words.ends_with("Order 1: diavola to Main St 1, Berlin."), "{words}");
    // The other way there is more than version 1 promises, which its schema lets through.
    answered(&green, &question(&green).await, "Side St 2, Bonn").await;
    let told = answered(&blue, &question(&blue).await, "Side St 2, Bonn").await;
    assert_eq!(told["structuredContent"], json!({ "id": 2, "pizza": "diavola", "address": "Side St 2, Bonn" }));
    assert_eq!(desk.count("SELECT count(*) FROM orders").await, 2);
    desk.close([blue, green]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_cannot_be_asked_reads_what_is_missing() {
    let desk = Desk::open("asked").await;
    let server = desk.start(Color::Blue, Tool::new("order", order_1)).await;
    let params = json!({ "name": "order", "arguments": { "pizza": "diavola" } });
    let incapable = json!({ "sampling": {} });
    let url = json!({ "elicitation": { "url": {} } });
    for (who, result) in [
        ("curl", ask(&server, &params, "").await),
        ("2025-06-18", ask(&server, &params, "mcp-protocol-version: 2025-06-18\r\n").await),
        (
            "2025-11-25",
            ask(&server, &params, "mcp-protocol-version: 2025-11-25\r\naccept: application/json, text/event-stream\r\n").await,
        ),
        ("2026-07-28 without the capability", call(&server, &json!({}), &incapable).await),
        ("2026-07-28 with addresses and no forms", call(&server, &json!({}), &url).await),
    ] {
        assert_eq!(result["isError"], true, "{who}: {result}");
        assert!(result.get("structuredContent").is_none(), "{who}: {result}");
        let words = text(&result);
        for part in ["did nothing yet", "- address: Where to?", "address (string, required)"] {
            assert!(words.contains(part), "{who}: {part} is not in {words}");
        }
    }
    for capability in [json!({}), json!({ "form": {} }), json!({ "form": {}, "url": {} })] {
        let asked = call(&server, &json!({}), &json!({ "elicitation": capability })).await;
        assert_eq!(asked["resultType"], "input_required", "{capability}: {asked}");
    }
    assert_eq!(desk.count("SELECT count(*) FROM orders").await, 0);
    desk.close([server]).await;
}

#[derive(Deserialize, JsonSchema)]
struct Change {
    what: String,
}

/// Changes something, or fails in a way of the caller's choice.
async fn change(Parameters(Change { what }): Parameters<Change>, audit: Audit) -> Result<String, ToolError> {
    audit.concerns(format!("thing {}", what.len()));
    match &*what {
        "wrong" => Err(ToolError::caller("that is wrong")),
        "broken" => Err(ToolError::internal("on purpose")),
        "panic" => panic!("on purpose"),
        "slow" => std::future::pending().await,
        _ => Ok("changed".to_owned()),
    }
}

/// Acts once, and rolls back what it did when it is told to.
async fn act(
    State(database): State<Database>,
    Parameters(Change { what }): Parameters<Change>,
    once: Once,
) -> Result<Reply<Order>, ToolError> {
    let mut connection = database.get().await?;
    let act = match once.begin(&mut connection).await? {
        Begun::Before(reply) => return Ok(reply),
        Begun::First(act) => act,
    };
    act.transaction().execute("INSERT INTO orders (pizza, address) VALUES ('', '')", &[]).await?;
    act.concerns("order 1");
    if what == "wrong" {
        return Err(ToolError::caller("that is wrong"));
    }
    Ok(act.answer(Reply::new(Order { id: 1, pizza: what }, "Done.")).await?)
}

/// The audit log, one row a line, once it has so many rows.
async fn log(desk: &Desk, rows: usize) -> String {
    let all = "SELECT coalesce(string_agg(concat_ws(' ', principal, tool, outcome, object, color, build), E'\\n' ORDER BY id), '') \
               FROM mcp_audit";
    let begun = Instant::now();
    loop {
        let log = desk.text(all).await;
        if log.lines().count() >= rows {
            return log;
        }
        assert!(begun.elapsed() < LONG, "no {rows} rows:\n{log}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn plain(server: &Server, tool: &str, what: &str) -> String {
    let body = json!({ "jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {
        "name": tool, "arguments": { "what": what } } })
    .to_string();
    let head =
        format!("POST /mcp HTTP/1.1\r\ncontent-type: application/json\r\nx-principal: ada\r\ncontent-length: {}", body.len());
    testing::exchange(server.running().address(), &head, &body).await.body
}

#[tokio::test(flavor = "multi_thread")]
async fn every_call_that_may_change_something_leaves_one_row_and_none_of_its_arguments() {
    let desk = Desk::open("audit").await;
    let read = Tool::new("read", change).describe("Reads.").read_only();
    let config = HttpConfig { call_timeout: Duration::from_secs(2), ..HttpConfig::default() };
    let server =
        desk.start_with(Color::Blue, vec![Tool::new("change", change).describe("Changes.").destructive(), read], config).await;
    plain(&server, "read", "milk").await;
    let blue = "blue 1.0.0+blue";
    let mut expected = Vec::new();
    for (what, outcome) in
        [("milk", "ok"), ("wrong", "tool_error"), ("broken", "-32603"), ("panic", "-32603"), ("slow", "timeout")]
    {
        plain(&server, "change", what).await;
        expected.push(format!("ada change {outcome} thing {} {blue}", what.len()));
        assert_eq!(log(&desk, expected.len()).await, expected.join("\n"));
    }
    // A client that goes away ends its call, which has a row all the same.
    let left = tokio::time::timeout(Duration::from_millis(500), plain(&server, "change", "slow")).await;
    assert!(left.is_err(), "{left:?}");
    expected.push(format!("ada change cancelled thing 4 {blue}"));
    assert_eq!(log(&desk, expected.len()).await, expected.join("\n"));
    // What is refused before the tool began changed nothing; neither did what only reads.
    plain(&server, "read", "milk").await;
    let refused = testing::exchange(
        server.running().address(),
        "POST /mcp HTTP/1.1\r\ncontent-type: application/json\r\ncontent-length: 79",
        r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"change","a":1}}"#,
    );
    assert!(refused.await.body.contains("\"isError\":true"));
    plain(&server, "change", "last").await;
    expected.push(format!("ada change ok thing 4 {blue}"));
    // A graceful shutdown writes what is there.
    server.stop().await;
    assert_eq!(log(&desk, expected.len()).await, expected.join("\n"));
    assert_eq!(desk.count("SELECT count(*) FROM mcp_audit a WHERE a::text ~ 'milk|wrong|panic'").await, 0);
    desk.close([]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_acts_once_and_its_row_are_one_transaction() {
    let desk = Desk::open("transaction").await;
    let server = desk.start(Color::Green, Tool::new("act", act)).await;
    // No process writes it later: it is there when the answer is.
    assert!(plain(&server, "act", "milk").await.contains("Done."));
    assert_eq!(log(&desk, 0).await, "ada act ok order 1 green 2.0.0+green");
    // Without the row there is no act, and without the act no row that says that it was done.
    let break_it = "ALTER TABLE mcp_audit ADD CONSTRAINT broken CHECK (outcome <> 'ok') NOT VALID";
    desk.database.get().await.unwrap().batch_execute(break_it).await.unwrap();
    assert!(plain(&server, "act", "tea").await.contains("-32603"));
    assert_eq!(desk.count("SELECT count(*) FROM orders").await, 1);
    desk.database.get().await.unwrap().batch_execute("ALTER TABLE mcp_audit DROP CONSTRAINT broken").await.unwrap();
    plain(&server, "act", "wrong").await;
    assert!(plain(&server, "act", "milk").await.contains("Done."));
    let rows = ["ok order 1", "-32603 order 1", "tool_error order 1", "replayed"];
    let expected: Vec<_> = rows.iter().map(|row| format!("ada act {row} green 2.0.0+green")).collect();
    assert_eq!(log(&desk, 4).await, expected.join("\n"));
    assert_eq!(desk.count("SELECT count(*) FROM orders").await, 1);
    desk.close([server]).await;
}

/// The text that the model reads.
fn text(result: &Value) -> String {
    result["content"][0]["text"].as_str().unwrap_or_else(|| panic!("{result}")).to_owned()
}

/// The result of a call of Ada's with these parameters.
async fn ask(server: &Server, params: &Value, headers: &str) -> Value {
    let body = json!({ "jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params }).to_string();
    let head = format!(
        "POST /mcp HTTP/1.1\r\ncontent-type: application/json\r\nx-principal: ada\r\n{headers}content-length: {}",
        body.len()
    );
    let answer = testing::exchange(server.running().address(), &head, &body).await;
    let json = answer.body.lines().find_map(|line| line.strip_prefix("data: ").filter(|data| data.contains("result")));
    let answer: Value = serde_json::from_str(json.unwrap_or(&answer.body)).unwrap_or_else(|_| panic!("{}", answer.body));
    answer.get("result").cloned().unwrap_or_else(|| panic!("no result: {answer}"))
}

/// The result of an order as 2026-07-28 has it, with these further parameters and capabilities.
async fn call(server: &Server, more: &Value, capabilities: &Value) -> Value {
    let mut params = json!({ "name": "order", "arguments": { "pizza": "diavola" }, "_meta": {
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientInfo": { "name": "test", "version": "1" },
        "io.modelcontextprotocol/clientCapabilities": capabilities,
    } });
    params.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    ask(server, &params, "mcp-protocol-version: 2026-07-28\r\nmcp-method: tools/call\r\nmcp-name: order\r\n").await
}

/// Begins an order, and gives the state that its question carries.
async fn question(server: &Server) -> String {
    let asked = call(server, &json!({}), &json!({ "elicitation": {} })).await;
    assert_eq!(asked["resultType"], "input_required", "{asked}");
    asked["requestState"].as_str().unwrap_or_else(|| panic!("{asked}")).to_owned()
}

async fn respond(server: &Server, state: &str, responses: &Value) -> Value {
    call(server, &json!({ "requestState": state, "inputResponses": responses }), &json!({ "elicitation": {} })).await
}

async fn answered(server: &Server, state: &str, address: &str) -> Value {
    respond(server, state, &json!({ "address": { "action": "accept", "content": { "address": address } } })).await
}

/// A database with the tables.
struct Desk {
    database: Database,
    directory: PathBuf,
}

impl Desk {
    async fn open(name: &str) -> Self {
        let directory = std::env::temp_dir().join(format!("acts-{name}-{}", std::process::id()));
        std::fs::create_dir(&directory).unwrap();
        let database = Database::open(Self::config(&directory)).await.unwrap();
        Self { database, directory }
    }

    fn config(directory: &std::path::Path) -> DatabaseConfig {
        let create = Duration::from_secs(10);
        DatabaseConfig { data_dir: directory.to_owned(), path: std::env::var_os("PATH"), create, ..DatabaseConfig::default() }
    }

    /// A replica with this tool.
    async fn start(&self, color: Color, tool: Tool<Database>) -> Server {
        self.start_with(color, vec![tool.describe("Acts.").additive()], HttpConfig::default()).await
    }

    async fn start_with(&self, color: Color, tools: Vec<Tool<Database>>, config: HttpConfig) -> Server {
        let database = Database::open(Self::config(&self.directory)).await.unwrap();
        let version = if color == Color::Blue { "1.0.0" } else { "2.0.0" };
        let release = Release::new(color, version, color.to_string().as_str()).unwrap();
        let migrations: &'static [Migration] = [MIGRATIONS, &[ORDERS]].concat().leak();
        let control = Control::new(database.clone(), Replica::new(color, version, migrations));
        let app = App::new(release, database.clone()).database(database).migrations(migrations).control(control);
        let app = tools.into_iter().fold(app, App::tool);
        let authentication = Authentication::Header("x-principal".parse().unwrap());
        testing::start_with(app, HttpConfig { authentication, ..config }).await.unwrap()
    }

    async fn count(&self, sql: &'static str) -> i64 {
        self.database.get().await.unwrap().query_opt(sql, &[]).await.unwrap().unwrap().get(0)
    }

    async fn text(&self, sql: &'static str) -> String {
        self.database.get().await.unwrap().query_opt(sql, &[]).await.unwrap().unwrap().get(0)
    }

    async fn close<const N: usize>(self, servers: [Server; N]) {
        for server in servers {
            server.stop().await;
        }
        self.database.close().await.unwrap();
        std::fs::remove_dir_all(self.directory).unwrap();
    }
}
