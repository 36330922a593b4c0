//! What somebody learns who answers in the place of PostgreSQL.

#![expect(clippy::unwrap_used, reason = "what a test needs fails the test when it is missing")]

use std::time::Duration;

use bg_runtime::database::{Database, DatabaseConfig, DatabaseError};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};

const LONG: Duration = Duration::from_secs(30);
const PASSWORD: &str = "hunter2";
const SSL_REQUEST: u32 = 80_877_103;
const CLEARTEXT: &[u8] = b"R\0\0\0\x08\0\0\0\x03";
const SCRAM: &[u8] = b"R\0\0\0\x17\0\0\0\x0aSCRAM-SHA-256\0\0";

/// Declines TLS, asks for proof with `request`, and returns what the client sent before and after that.
async fn impersonate(mut wire: TcpStream, request: &[u8]) -> (Vec<u8>, Vec<u8>) {
    let (mut before, mut after) = (Vec::new(), Vec::new());
    loop {
        let Ok(length) = wire.read_u32().await else { return (before, after) };
        let mut message = vec![0; length as usize - 4];
        wire.read_exact(&mut message).await.unwrap();
        before.extend_from_slice(&message);
        if message == SSL_REQUEST.to_be_bytes() {
            wire.write_all(b"N").await.unwrap();
            continue;
        }
        wire.write_all(request).await.unwrap();
        // A client that refuses closes the connection.
        let mut piece = [0; 1024];
        if let Ok(read) = wire.read(&mut piece).await {
            after.extend_from_slice(&piece[..read]);
        }
        return (before, after);
    }
}

/// The port of an impostor, and what it hears.
async fn impostor(request: &'static [u8]) -> (u16, JoinHandle<(Vec<u8>, Vec<u8>)>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    (port, tokio::spawn(async move { impersonate(listener.accept().await.unwrap().0, request).await }))
}

/// Opens a connection of the pool, or one beside it.
async fn connect(config: DatabaseConfig) -> DatabaseError {
    let beside = config.direct_url.is_some();
    let database = Database::open(config).await.unwrap();
    let failure = if beside { database.session().await.map(drop) } else { database.get().await.map(drop) };
    failure.expect_err("an impostor lets nobody in")
}

fn config(url: &str) -> DatabaseConfig {
    DatabaseConfig { url: Some(url.to_owned().into()), ..DatabaseConfig::default() }
}

fn source(failure: &DatabaseError) -> String {
    std::error::Error::source(failure).map(ToString::to_string).unwrap_or_default()
}

#[tokio::test]
async fn a_clear_text_password_is_not_sent_without_tls() {
    tokio::time::timeout(LONG, async {
        for url in [
            "postgres://ada:hunter2@127.0.0.1:PORT/shop",
            "postgres://ada:hunter2@localhost:PORT/shop?sslmode=disable",
            "postgres://ada:hunter2@127.0.0.1:PORT/shop?sslmode=prefer",
            "postgres://ada:hunter2@127.0.0.1:PORT/shop?sslmode=allow",
            // An address of this machine that is not loopback's.
            "postgres://ada:hunter2@0.0.0.0:PORT/shop?sslmode=disable",
            "host=db.internal hostaddr=127.0.0.1 port=PORT user=ada password=hunter2 sslmode=disable",
            "hostaddr=127.0.0.1 port=PORT user=ada password=hunter2",
        ] {
            let (port, heard) = impostor(CLEARTEXT).await;
            let failure = connect(config(&url.replace("PORT", &port.to_string()))).await;
            let (before, after) = heard.await.unwrap();
            assert!(String::from_utf8_lossy(&before).contains("user\0ada"), "{url}: the password was not asked for");
            assert_eq!(after, b"", "{url}");
            assert!(source(&failure).contains("clear text"), "{url}: {failure:?}");
            assert!(!format!("{failure:?}").contains(PASSWORD));
        }
    })
    .await
    .expect("in time");
}

#[tokio::test]
async fn the_way_past_a_pooler_is_as_careful() {
    let (port, heard) = impostor(CLEARTEXT).await;
    let direct = format!("postgres://ada:hunter2@127.0.0.1:{port}/shop");
    let config = DatabaseConfig { direct_url: Some(direct.into()), ..config("postgres://ada@127.0.0.1:1/shop") };
    let failure = tokio::time::timeout(LONG, connect(config)).await.expect("in time");
    assert_eq!(heard.await.unwrap().1, b"");
    assert!(source(&failure).contains("clear text"), "{failure:?}");
}

/// Who declines TLS there does not even hear who wants to come in.
#[tokio::test]
async fn another_machine_must_speak_tls_unless_the_url_names_a_mode() {
    for url in ["postgres://ada:hunter2@0.0.0.0:PORT/shop", "hostaddr=0.0.0.0 port=PORT user=ada password=hunter2"] {
        let (port, heard) = impostor(CLEARTEXT).await;
        let connecting = connect(config(&url.replace("PORT", &port.to_string())));
        let failure = tokio::time::timeout(LONG, connecting).await.expect("in time");
        assert_eq!(heard.await.unwrap(), (SSL_REQUEST.to_be_bytes().to_vec(), Vec::new()), "{url}");
        assert!(source(&failure).contains("does not offer TLS"), "{failure:?}");
    }
}

/// Its proof does not contain the password.
#[tokio::test]
async fn scram_is_answered_without_tls() {
    let (port, heard) = impostor(SCRAM).await;
    let url = format!("postgres://ada:hunter2@127.0.0.1:{port}/shop?sslmode=disable");
    let _closed = tokio::time::timeout(LONG, connect(config(&url))).await.expect("in time");
    let (_, after) = heard.await.unwrap();
    let said = String::from_utf8_lossy(&after);
    assert!(said.contains("SCRAM-SHA-256") && !said.contains(PASSWORD), "{said:?}");
}
