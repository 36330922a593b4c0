//! Where the other processes reach this one, on a platform that tells a container its address only when it is asked.

use std::{net::IpAddr, time::Duration};

use bg_runtime::http::Http;
use serde_json::Value;

/// The word that stands for the address that ECS gave to the task.
pub(crate) const ECS: &str = "ecs";

/// ECS answers from the machine itself; now and then it is not ready when the container is.
const ATTEMPTS: u32 = 5;
const PAUSE: Duration = Duration::from_millis(500);
const ASKED_WITHIN: Duration = Duration::from_secs(2);

/// The address of this task, as the metadata endpoint of ECS (version 4) says it.
///
/// # Errors
/// In words, when nobody answers or what is said has no address.
pub(crate) async fn of_task(metadata: &str) -> Result<IpAddr, String> {
    let http = Http::new();
    let mut wrong = String::new();
    for attempt in 0..ATTEMPTS {
        if attempt > 0 {
            tokio::time::sleep(PAUSE).await;
        }
        match http.get(metadata, ASKED_WITHIN).await.and_then(|answer| answer.success(metadata)) {
            Ok(answer) => return address(&answer.json()).ok_or_else(|| "the metadata of the task has no address".to_owned()),
            Err(failure) => wrong = failure.to_string(),
        }
    }
    Err(format!("the metadata of the task cannot be read: {wrong}"))
}

fn address(container: &Value) -> Option<IpAddr> {
    let networks = container["Networks"].as_array()?.iter();
    let of = |kind: &str| networks.clone().find_map(|network| network[kind][0].as_str()?.parse().ok());
    of("IPv4Addresses").or_else(|| of("IPv6Addresses"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };

    use super::*;

    #[test]
    fn a_task_has_the_address_of_its_network() {
        let container =
            json!({ "Name": "mcp-server", "Networks": [{ "NetworkMode": "awsvpc", "IPv4Addresses": ["10.0.2.61"] }] });
        assert_eq!(address(&container), Some([10, 0, 2, 61].into()));
        let six = json!({ "Networks": [{ "NetworkMode": "awsvpc", "IPv6Addresses": ["fd00::1"] }] });
        assert_eq!(address(&six).unwrap().to_string(), "fd00::1");
        for nothing in [json!({}), json!({ "Networks": [] }), json!({ "Networks": [{ "IPv4Addresses": ["nonsense"] }] })] {
            assert_eq!(address(&nothing), None, "{nothing}");
        }
    }

    #[tokio::test]
    async fn a_task_asks_again_when_nobody_answers_at_first() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let metadata = format!("http://{}/v4/abc", listener.local_addr().unwrap());
        let answers = tokio::spawn(async move {
            for answer in ["HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n".to_owned(), {
                let body = json!({ "Networks": [{ "IPv4Addresses": ["10.0.2.61"] }] }).to_string();
                format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len())
            }] {
                let (mut wire, _) = listener.accept().await.unwrap();
                let read = wire.read(&mut [0; 4096]).await.unwrap();
                assert!(read > 0);
                wire.write_all(answer.as_bytes()).await.unwrap();
            }
        });
        assert_eq!(of_task(&metadata).await, Ok([10, 0, 2, 61].into()));
        answers.await.unwrap();
    }
}
