//! Two nodes with one name would take each other's lock for their own.

use std::time::Duration;

use model::ClusterView;

/// How long the other node may take to answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(3);

/// An error when a node of this name lives. Only an HTTP answer proves that: an accepting port proves nothing.
pub(crate) async fn refuse(cluster: &ClusterView, name: &str, scope: &str) -> Result<(), String> {
    let Some(api_url) = cluster.member(name).and_then(|member| member.api_url.as_deref()) else {
        return Ok(());
    };
    // A proxy's answer, or somebody else's after a redirect, would prove nothing.
    let client = reqwest::Client::builder()
        .timeout(ANSWER_WITHIN)
        .tls_danger_accept_invalid_certs(true)
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .build();
    let Ok(client) = client else {
        return Ok(());
    };
    let url = api_url.trim_end_matches("/patroni").to_owned() + "/liveness";
    match client.get(url).send().await {
        Ok(_) => Err(format!(
            "a node named {name} is already running in the cluster {scope}: its REST API at {api_url} answers"
        )),
        Err(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::Member;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    /// A cluster in which `a` is at a port that answers each connection so.
    async fn beside(answer: &'static str) -> ClusterView {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let api_url = format!("http://{}/patroni", listener.local_addr().expect("an address"));
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                // What a client sends must be read, or it sees a reset connection.
                let _ = stream.read(&mut [0; 1024]).await;
                let _ = stream.write_all(answer.as_bytes()).await;
            }
        });
        let member = Member { name: "a".to_owned(), api_url: Some(api_url), ..Member::default() };
        ClusterView { members: vec![member], ..ClusterView::default() }
    }

    /// Pitfall 23.
    #[tokio::test]
    async fn only_an_http_answer_is_another_node() {
        let _ = rustls::crypto::ring::default_provider().install_default();
        for (answer, lives) in [
            ("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", true),
            ("HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n", true),
            ("SSH-2.0-OpenSSH_9.2\r\n", false),
            ("", false),
        ] {
            let cluster = beside(answer).await;
            assert_eq!(refuse(&cluster, "a", "demo").await.is_err(), lives, "{answer:?}");
            assert_eq!(refuse(&cluster, "b", "demo").await, Ok(()), "{answer:?}");
        }
        let gone = "http://127.0.0.1:1/patroni".to_owned();
        let member = Member { name: "a".to_owned(), api_url: Some(gone), ..Member::default() };
        let cluster = ClusterView { members: vec![member], ..ClusterView::default() };
        assert_eq!(refuse(&cluster, "a", "demo").await, Ok(()));
    }
}
