//! The contract that this build was reviewed with is the one that it keeps.

use bg_runtime::contract::Contract;
use mcp_server::appointments;

#[tokio::test]
async fn the_contract_is_the_one_in_the_repository() {
    let reviewed: Contract = serde_json::from_str(include_str!("../contract.json")).unwrap();
    let now = appointments::contract().await.unwrap();
    let changes: Vec<_> = reviewed.compare(&now, |_| true).iter().map(|change| format!("\n  {change}")).collect();
    assert!(
        reviewed == now,
        "what clients are promised has changed:{}\nIf that is meant, and nothing in it breaks who is connected: \
         cargo run -- contract > mcp-server/contract.json",
        changes.concat()
    );
}
