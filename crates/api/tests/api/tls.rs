//! HTTPS with certificates made for the test.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use crate::support::{Node, config, serve};
use api::{Backend, Server};
use reqwest::{Certificate, Client, Identity, Method, StatusCode};
use serde_json::{Value, json};
use tempfile::TempDir;

/// Files of a small public key infrastructure.
struct Pki {
    dir: TempDir,
}

impl Pki {
    /// A root, a server certificate for 127.0.0.1 with its key in plain and encrypted form, and a client's.
    fn new() -> Pki {
        let pki = Pki { dir: tempfile::tempdir().expect("a directory") };
        pki.openssl("req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=root -keyout ca.key -out ca.crt");
        std::fs::write(pki.dir.path().join("san"), "subjectAltName=IP:127.0.0.1").expect("a file");
        for name in ["server", "renewed", "client"] {
            pki.openssl(&format!(
                "req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN={name} -keyout {name}.key -out {name}.csr"
            ));
            pki.openssl(&format!(
                "x509 -req -in {name}.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 2 -extfile san -out {name}.crt"
            ));
        }
        pki.openssl("pkcs8 -topk8 -in server.key -passout pass:hush -out encrypted.key");
        pki
    }

    fn openssl(&self, arguments: &str) {
        let output = Command::new("openssl")
            .args(arguments.split(' '))
            .current_dir(self.dir.path())
            .output()
            .expect("openssl is installed");
        assert!(output.status.success(), "openssl {arguments}: {}", String::from_utf8_lossy(&output.stderr));
    }

    fn path(&self, name: &str) -> String {
        self.dir.path().join(name).to_string_lossy().into_owned()
    }

    fn read(&self, name: &str) -> Vec<u8> {
        std::fs::read(Path::new(&self.path(name))).expect("a file")
    }

    /// A `restapi` section with the server's files and more settings.
    fn section(&self, more: Value) -> Value {
        let mut section = json!({"certfile": self.path("server.crt"), "keyfile": self.path("server.key"),
            "cafile": self.path("ca.crt")});
        for (key, value) in more.as_object().expect("an object") {
            section[key] = value.clone();
        }
        section
    }

    /// A client that trusts the root, and shows its own certificate where asked to.
    fn client(&self, with_certificate: bool) -> Client {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let root = Certificate::from_pem(&self.read("ca.crt")).expect("a certificate");
        let builder = Client::builder().tls_certs_only([root]).pool_max_idle_per_host(0);
        let builder = if with_certificate {
            let pem = [self.read("client.crt"), self.read("client.key")].concat();
            builder.identity(Identity::from_pem(&pem).expect("an identity"))
        } else {
            builder
        };
        builder.build().expect("a client")
    }
}

async fn code(client: &Client, method: Method, server: &Server, path: &str) -> Option<StatusCode> {
    let url = format!("https://{}{path}", server.local_addr());
    client.request(method, url).send().await.ok().map(|response| response.status())
}

#[tokio::test]
async fn https_with_an_encrypted_key_and_reloaded_certificates() {
    let pki = Pki::new();
    let section = pki.section(json!({"keyfile": pki.path("encrypted.key"), "keyfile_password": "hush",
        "https_extra_headers": {"Strict-Transport-Security": "max-age=1"}}));
    let server = serve(&Node::leader(), section).await;
    let client = pki.client(false);
    let response = client.get(format!("https://{}/primary", server.local_addr())).send().await.expect("an answer");
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(response.headers()["strict-transport-security"], "max-age=1");

    // A certificate that cannot be read leaves the server as it is; then a new one, then none at all.
    let listen = server.local_addr().to_string();
    let broken = config(&listen, pki.section(json!({"certfile": pki.path("absent.crt")})));
    let error = server.reload(broken).await.expect_err("refused").to_string();
    assert!(error.contains("restapi.certfile") && error.contains("absent.crt"), "{error}");
    assert_eq!(code(&client, Method::GET, &server, "/primary").await, Some(StatusCode::OK));
    let renewed = json!({"certfile": pki.path("renewed.crt"), "keyfile": pki.path("renewed.key")});
    server.reload(config(&listen, pki.section(renewed))).await.expect("reloaded");
    assert_eq!(code(&client, Method::GET, &server, "/primary").await, Some(StatusCode::OK));
    server.reload(config(&listen, json!({}))).await.expect("reloaded");
    assert_eq!(code(&client, Method::GET, &server, "/primary").await, None);
    assert_eq!(crate::support::send(server.local_addr(), "GET /primary", "", "").await.code, 200);
}

#[tokio::test]
async fn a_wrong_key_or_password_is_said_without_the_secret() {
    let pki = Pki::new();
    for (more, words) in [
        (json!({"keyfile": pki.path("encrypted.key")}), "restapi.keyfile_password is needed"),
        (json!({"keyfile": pki.path("encrypted.key"), "keyfile_password": "guess"}), "cannot decrypt"),
        (json!({"keyfile": pki.path("client.key")}), "restapi.certfile"),
        (json!({"keyfile": pki.path("ca.crt")}), "no usable private key"),
    ] {
        let config = config("127.0.0.1:0", pki.section(more));
        let result = api::serve(config, Node::leader() as Arc<dyn Backend>).await;
        let error = result.err().expect("refused").to_string();
        assert!(error.contains(words) && !error.contains("guess"), "{error}");
    }
}

#[tokio::test]
async fn optional_client_certificates_are_needed_for_operations() {
    let pki = Pki::new();
    let server = serve(&Node::leader(), pki.section(json!({"verify_client": "optional"}))).await;
    let (anonymous, known) = (pki.client(false), pki.client(true));
    assert_eq!(code(&anonymous, Method::GET, &server, "/primary").await, Some(StatusCode::OK));
    let response = anonymous.post(format!("https://{}/reload", server.local_addr())).send().await.expect("an answer");
    assert_eq!(response.status(), StatusCode::FORBIDDEN);
    assert_eq!(response.text().await.expect("a body"), "client certificate required");
    assert_eq!(code(&known, Method::POST, &server, "/reload").await, Some(StatusCode::ACCEPTED));
}

#[tokio::test]
async fn required_client_certificates_are_needed_for_everything() {
    let pki = Pki::new();
    let server = serve(&Node::leader(), pki.section(json!({"verify_client": "required"}))).await;
    assert_eq!(code(&pki.client(false), Method::GET, &server, "/primary").await, None);
    assert_eq!(code(&pki.client(true), Method::GET, &server, "/primary").await, Some(StatusCode::OK));
}
