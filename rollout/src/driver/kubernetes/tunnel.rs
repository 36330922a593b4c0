//! Ports on this machine that lead to a pod through the API server, as `kubectl port-forward` does.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use k8s_openapi::api::core::v1::Pod;
use kube::{Api, api::Portforwarder, client::UpgradeConnectionError};
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
    let is_told = Arc::new(AtomicBool::new(false));
    while let Ok((client, _)) = listener.accept().await {
        let (pods, pod, is_told) = (pods.clone(), pod.clone(), is_told.clone());
        tokio::spawn(async move {
            let forwarder = match pods.portforward(&pod, &[port]).await {
                Ok(forwarder) => forwarder,
                // Of a pod that is gone this is no news.
                Err(failure) if !is_forbidden(&failure) => {
                    return tracing::debug!(error = %failure, "no way to {pod}:{port}: {failure}");
                }
                Err(_) if is_told.swap(true, Ordering::Relaxed) => return,
                Err(failure) => {
                    tracing::warn!(error = %failure, "no way to {pod}:{port}: the API server forbids pods/portforward; the Role \
                        `rollout` in k8s/base has what is needed, and inside the cluster --reach pods needs none");
                    return;
                }
            };
            if let Err(failure) = pass(client, forwarder, port).await {
                tracing::debug!("a connection to {pod}:{port} ended: {failure}");
            }
        });
    }
}

fn is_forbidden(failure: &kube::Error) -> bool {
    matches!(failure, kube::Error::UpgradeConnection(UpgradeConnectionError::ProtocolSwitch(status)) if status.as_u16() == 403)
}

async fn pass(
    mut client: TcpStream,
    mut forwarder: Portforwarder,
    port: u16,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let mut stream = forwarder.take_stream(port).ok_or("the API server forwards nothing")?;
    tokio::io::copy_bidirectional(&mut client, &mut stream).await?;
    drop(stream);
    forwarder.join().await?;
    Ok(())
}
