//! The two calls of the EC2 Query API that tagging needs (AWS documentation, "Actions": CreateTags, DescribeVolumes).

use std::collections::BTreeSet;
use std::time::Duration;

use reqwest::Client;

use super::sigv4::{self, Credentials, Request, Scope};
use crate::http;

const ANSWER_WITHIN: Duration = Duration::from_secs(30);
const API_VERSION: &str = "2016-11-15";
const CONTENT_TYPE: &str = "application/x-www-form-urlencoded; charset=utf-8";

/// The API of one region, with one set of credentials.
pub struct Ec2<'a> {
    /// URL with scheme and host, no path.
    pub endpoint: &'a str,
    /// As in `eu-central-1`.
    pub region: &'a str,
    /// Who asks.
    pub credentials: Credentials,
}

/// The public endpoint of a region.
pub fn endpoint_of(region: &str) -> String {
    let domain = if region.starts_with("cn-") { "amazonaws.com.cn" } else { "amazonaws.com" };
    format!("https://ec2.{region}.{domain}")
}

impl Ec2<'_> {
    /// Sets tags on instances or volumes.
    pub async fn create_tags(&self, resources: &[String], tags: &[(&str, &str)]) -> Result<(), String> {
        let mut pairs = vec![("Action".to_owned(), "CreateTags".to_owned())];
        pairs.extend(resources.iter().enumerate().map(|(i, id)| (format!("ResourceId.{}", i + 1), id.clone())));
        for (i, (key, value)) in tags.iter().enumerate() {
            pairs.push((format!("Tag.{}.Key", i + 1), (*key).to_owned()));
            pairs.push((format!("Tag.{}.Value", i + 1), (*value).to_owned()));
        }
        self.call(pairs).await.map(|_| ())
    }

    /// Volumes that are attached to an instance.
    pub async fn volumes_of(&self, instance_id: &str) -> Result<Vec<String>, String> {
        let text = |text: &str| text.to_owned();
        let answer = self
            .call(vec![
                (text("Action"), text("DescribeVolumes")),
                (text("Filter.1.Name"), text("attachment.instance-id")),
                (text("Filter.1.Value.1"), text(instance_id)),
            ])
            .await?;
        // Each volume is named once more in each of its attachments.
        Ok(elements(&answer, "volumeId").collect::<BTreeSet<_>>().into_iter().map(str::to_owned).collect())
    }

    async fn call(&self, mut pairs: Vec<(String, String)>) -> Result<String, String> {
        pairs.push(("Version".to_owned(), API_VERSION.to_owned()));
        let pairs: Vec<(&str, &str)> = pairs.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let body = sigv4::form(&pairs);
        let url = reqwest::Url::parse(self.endpoint).map_err(|error| format!("endpoint {}: {error}", self.endpoint))?;
        let host = match (url.host_str(), url.port()) {
            (Some(host), Some(port)) => format!("{host}:{port}"),
            (Some(host), None) => host.to_owned(),
            (None, _) => return Err(format!("endpoint {}: expected a URL with a host", self.endpoint)),
        };
        let date = sigv4::amz_date(jiff::Timestamp::now());
        let mut headers = vec![("content-type", CONTENT_TYPE), ("host", host.as_str()), ("x-amz-date", date.as_str())];
        if let Some(token) = &self.credentials.session_token {
            headers.push(("x-amz-security-token", token));
        }
        let request = Request { method: "POST", path: "/", query: &[], headers: &headers, body: body.as_bytes() };
        let scope = Scope { region: self.region, service: "ec2", date: &date };
        let authorization = sigv4::authorization(&request, &self.credentials, &scope);
        let client: Client = http::client(ANSWER_WITHIN).build().map_err(|error| error.to_string())?;
        let mut sending = client.post(url).header("authorization", authorization);
        for (name, value) in headers {
            sending = sending.header(name, value);
        }
        let (code, answer) = http::answer(sending.body(body.clone()).send().await).await?;
        if (200..300).contains(&code) {
            return Ok(answer);
        }
        let part = |name| elements(&answer, name).next().unwrap_or("unknown");
        Err(format!("EC2 answers {code} {}: {}", part("Code"), part("Message")))
    }
}

/// Texts of all elements of a name that hold nothing but text.
fn elements<'a>(xml: &'a str, name: &str) -> impl Iterator<Item = &'a str> {
    let (open, close) = (format!("<{name}>"), format!("</{name}>"));
    let mut rest = xml;
    std::iter::from_fn(move || {
        let (_, after) = rest.split_once(&open)?;
        let (text, after) = after.split_once(&close)?;
        rest = after;
        Some(text)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_of_an_answer() {
        let xml = "<volumeSet><item><volumeId>vol-1</volumeId><size>1</size><attachmentSet><item>\
                   <volumeId>vol-1</volumeId></item></attachmentSet></item><item><volumeId>vol-2</volumeId></item></volumeSet>";
        assert_eq!(elements(xml, "volumeId").collect::<Vec<_>>(), ["vol-1", "vol-1", "vol-2"]);
        assert_eq!(elements("<a>open", "a").count(), 0);
        assert_eq!(endpoint_of("cn-north-1"), "https://ec2.cn-north-1.amazonaws.com.cn");
    }
}
