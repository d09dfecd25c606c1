//! The requests this backend makes of etcd, each as one call over the pool.

use etcd_client::{Compare, CompareOp, DeleteOptions, GetOptions, KeyValue, PutOptions, Txn, TxnOp};
use tokio::time::Instant;

use super::failure::Failure;
use super::pool::{Answer, Pool};
use super::seen::Mark;
use crate::Guard;

/// Upper bound of an answer: all keys of a cluster. gRPC's default of 4 MiB is less than etcd may hold.
pub(super) const ANSWER_BYTES_MAX: usize = 64 << 20;

/// A key as etcd has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Record {
    /// The whole key.
    pub key: String,
    /// Its value; bytes that are no UTF-8 are replaced.
    pub value: String,
    /// The revision that wrote it.
    pub revision: i64,
    /// Its lease, 0 for none.
    pub lease: i64,
}

impl Record {
    fn of(kv: &KeyValue) -> Record {
        Record {
            key: String::from_utf8_lossy(kv.key()).into_owned(),
            value: String::from_utf8_lossy(kv.value()).into_owned(),
            revision: kv.mod_revision(),
            lease: kv.lease(),
        }
    }
}

/// A lease that etcd granted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Lease {
    /// etcd's number for it.
    pub id: i64,
    /// The lifetime that was asked for, whole seconds; etcd may give more.
    pub ttl_s: i64,
}

/// What a conditional write does.
#[derive(Clone)]
pub(super) enum Write {
    /// Puts the value; bound to a lease unless that is 0.
    Put {
        /// The value.
        value: String,
        /// Number of a lease, or 0.
        lease: i64,
    },
    /// Deletes the key.
    Delete,
}

/// How [`Pool::write_if`] ended.
pub(super) enum Written {
    /// Applied, at this revision.
    At(i64),
    /// The condition did not hold.
    Refused,
    /// The condition did not hold, but an earlier attempt of this call may have been applied before.
    Doubtful,
}

impl Pool {
    /// One key, linearizable.
    pub async fn get(&self, key: &str, deadline: Instant) -> Result<Option<Record>, Failure> {
        let options = GetOptions::new().with_limit(1);
        Ok(self.range(key, options, deadline).await?.pop())
    }

    /// All keys that begin with `prefix`, linearizable.
    pub async fn get_prefix(&self, prefix: &str, deadline: Instant) -> Result<Vec<Record>, Failure> {
        self.range(prefix, GetOptions::new().with_prefix(), deadline).await
    }

    async fn range(&self, key: &str, options: GetOptions, deadline: Instant) -> Result<Vec<Record>, Failure> {
        let what = format!("read {key}");
        let answer = self.call(&what, deadline, |client| {
            let options = options.clone();
            async move {
                let mut kv = client.kv_client().max_decoding_message_size(ANSWER_BYTES_MAX);
                let response = kv.get(key, Some(options)).await?;
                Ok((Mark::of(response.header()), response.kvs().iter().map(Record::of).collect()))
            }
        });
        Ok(answer.await?.value)
    }

    /// Writes one key if all `conditions` hold.
    pub async fn write_if(
        &self,
        key: &str,
        conditions: Vec<Compare>,
        write: Write,
        deadline: Instant,
    ) -> Result<Written, Failure> {
        let what = format!("write {key}");
        let answer = self.call(&what, deadline, |client| {
            let operation = match write.clone() {
                Write::Put { value, lease } => TxnOp::put(key, value, Some(PutOptions::new().with_lease(lease))),
                Write::Delete => TxnOp::delete(key, None),
            };
            let transaction = Txn::new().when(conditions.clone()).and_then([operation]);
            async move {
                let response = client.kv_client().txn(transaction).await?;
                let mark = Mark::of(response.header());
                Ok((mark, response.succeeded().then(|| mark.map_or(0, |mark| mark.revision))))
            }
        });
        let Answer { value: revision, doubtful } = answer.await?;
        Ok(match revision {
            Some(revision) => Written::At(revision),
            None if doubtful => Written::Doubtful,
            None => Written::Refused,
        })
    }

    /// Deletes all keys that begin with `prefix`.
    pub async fn delete_prefix(&self, prefix: &str, deadline: Instant) -> Result<(), Failure> {
        let what = format!("delete {prefix}");
        let answer = self.call(&what, deadline, |client| async move {
            let options = DeleteOptions::new().with_prefix();
            let response = client.kv_client().delete(prefix, Some(options)).await?;
            Ok((Mark::of(response.header()), ()))
        });
        answer.await.map(|_| ())
    }

    /// A new lease that lives at least `ttl_s` from now. One that is granted but never heard of expires by itself.
    pub async fn grant(&self, ttl_s: i64, deadline: Instant) -> Result<Lease, Failure> {
        let answer = self.call("create a lease", deadline, |client| async move {
            let response = client.lease_client().grant(ttl_s, None).await?;
            if response.ttl() < ttl_s {
                let message = format!("lease of {ttl_s}s wanted, {}s granted", response.ttl());
                return Err(Failure::Again { message, doubtful: true });
            }
            Ok((None, Lease { id: response.id(), ttl_s }))
        });
        Ok(answer.await?.value)
    }

    /// Prolongs a lease to its full lifetime from now; [`Failure::LeaseGone`] when it has expired.
    pub async fn keep_alive(&self, lease: Lease, deadline: Instant) -> Result<(), Failure> {
        let answer = self.call("prolong a lease", deadline, |client| async move {
            // Returns after etcd's first answer; dropping the stream ends it.
            client.lease_client().keep_alive(lease.id).await?;
            Ok((None, ()))
        });
        answer.await.map(|_| ())
    }

    /// Ends a lease.
    pub async fn revoke(&self, lease: Lease, deadline: Instant) -> Result<(), Failure> {
        let answer = self.call("end a lease", deadline, |client| async move {
            client.lease_client().revoke(lease.id).await?;
            Ok((None, ()))
        });
        answer.await.map(|_| ())
    }
}

/// The condition "this key was last written at this revision"; 0: it does not exist.
pub(super) fn unchanged_since(key: &str, revision: i64) -> Compare {
    Compare::mod_revision(key, CompareOp::Equal, revision)
}

/// A guard as conditions of a transaction; `None` when it can hold for no key.
pub(super) fn conditions(key: &str, guard: &Guard) -> Option<Vec<Compare>> {
    Some(match guard {
        Guard::None | Guard::Version(0) => vec![],
        Guard::Absent => vec![Compare::create_revision(key, CompareOp::Equal, 0)],
        Guard::Present => vec![Compare::create_revision(key, CompareOp::Greater, 0)],
        Guard::Version(version) => vec![unchanged_since(key, i64::try_from(*version).ok()?)],
        Guard::Value(value) => vec![Compare::value(key, CompareOp::Equal, value.as_str())],
    })
}
