//! Ports on this machine that lead to a pod through the API server, as `kubectl port-forward` does.

use std::net::SocketAddr;

use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};

/// A pod's two doors. Dropping it closes them.
#[derive(Debug)]
pub(super) struct Tunnel {
    addresses: [SocketAddr; 2],
    tasks: [JoinHandle<()>; 2],
}

// === impl Tunnel ===

impl Tunnel {
    pub(super) async fn open(pods: Api<Pod>, pod: String, ports: [u16; 2]) -> std::io::Result<Self> {
        let lead = async |port| {
            let listener = TcpListener::bind("127.0.0.1:0").await?;
            let address = listener.local_addr()?;
            let task = tokio::spawn(accept(listener, pods.clone(), pod.clone(), port));
            std::io::Result::Ok((address, task))
        };
        let (one, other) = (lead(ports[0]).await?, lead(ports[1]).await?);
        Ok(Self { addresses: [one.0, other.0], tasks: [one.1, other.1] })
    }

    /// For clients, and for operators.
    pub(super) fn addresses(&self) -> (String, String) {
        (self.addresses[0].to_string(), self.addresses[1].to_string())
    }
}

impl Drop for Tunnel {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

async fn accept(listener: TcpListener, pods: Api<Pod>, pod: String, port: u16) {
    while let Ok((client, _)) = listener.accept().await {
        let (pods, pod) = (pods.clone(), pod.clone());
        tokio::spawn(async move {
            if let Err(failure) = pass(client, &pods, &pod, port).await {
                tracing::debug!("a connection to {pod}:{port} ended: {failure}");
            }
        });
    }
}

async fn pass(
    mut client: TcpStream,
    pods: &Api<Pod>,
    pod: &str,
    port: u16,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let mut forwarder = pods.portforward(pod, &[port]).await?;
    let mut stream = forwarder.take_stream(port).ok_or("the API server forwards nothing")?;
    tokio::io::copy_bidirectional(&mut client, &mut stream).await?;
    drop(stream);
    forwarder.join().await?;
    Ok(())
}
