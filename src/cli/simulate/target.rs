//! The service that a platform is played against.

use std::time::{Duration, Instant};

use anyhow::Context;
use reqwest::header::CONTENT_TYPE;
use reqwest::{Client, RequestBuilder, Url};
use uuid::Uuid;

use super::answer::{Answer, Output};
use super::hook::Hook;
use super::profile::Profile;
use super::proof::Proof;
use super::verdict::{NotPassed, failed, skipped};
use crate::adapters::outbound;
use crate::domain::TenantId;

/// More of an answer than this is not read: it is too long for every platform.
const MAX_READ: usize = 4 * 1024 * 1024;

/// How many customers an ordinary lookup asks for.
const FEW: usize = 3;

pub(super) struct Target {
    pub(super) client: Client,
    pub(super) url: Url,
    pub(super) proof: Proof,
    pub(super) profile: &'static Profile,
    pub(super) tenant: TenantId,
    /// A tenant that the key must not see, or that nobody is.
    pub(super) foreign_tenant: TenantId,
    /// Customers that the tenant has.
    pub(super) customers: Vec<Uuid>,
    /// A customer that nobody has.
    pub(super) nobody: Uuid,
    /// The most ids that the service takes in one call.
    pub(super) max_batch: usize,
    /// The time in which an answer must be there.
    pub(super) within: Duration,
    /// A webhook route to be played too.
    pub(super) hook: Option<Hook>,
}

impl Target {
    /// A few customers that the tenant has.
    pub(super) fn known(&self) -> Result<&[Uuid], NotPassed> {
        if self.customers.is_empty() {
            return Err(skipped("no --customer-id was given"));
        }
        Ok(self.few())
    }

    /// The same, or none where none is known.
    pub(super) fn few(&self) -> &[Uuid] {
        &self.customers[..FEW.min(self.customers.len())]
    }

    /// Ids for a lookup of which only the answer's form matters.
    pub(super) fn sample(&self) -> Vec<Uuid> {
        [self.few(), &[self.nobody]].concat()
    }

    /// A lookup as the platform spells it.
    pub(super) fn lookup(&self, ids: &[Uuid]) -> String {
        (self.profile.lookup)(&self.tenant, ids)
    }

    /// A request without a proof.
    pub(super) fn unproven(&self, body: &str) -> RequestBuilder {
        self.client.post(self.url.clone()).header(CONTENT_TYPE, self.profile.content_type).body(body.to_owned())
    }

    /// A request as the platform sends it.
    pub(super) fn proven(&self, body: &str) -> RequestBuilder {
        self.prove(self.unproven(body), body)
    }

    /// Adds the proof for that body.
    pub(super) fn prove(&self, request: RequestBuilder, body: &str) -> RequestBuilder {
        self.proof.add(request, self.url.path(), |_| "", body.as_bytes())
    }

    pub(super) async fn send(&self, request: RequestBuilder) -> Result<Answer, NotPassed> {
        let began = Instant::now();
        let answered = async {
            let response = request.send().await.map_err(reqwest::Error::without_url)?;
            let (status, headers) = (response.status(), response.headers().clone());
            let body = outbound::body(response, MAX_READ).await.context("read the answer")?;
            anyhow::Ok(Answer { status, headers, body, took: began.elapsed() })
        };
        answered.await.map_err(|error| failed("an answer", format!("none: {error:#}")))
    }

    pub(super) async fn ask(&self, body: &str) -> Result<Answer, NotPassed> {
        self.send(self.proven(body)).await
    }

    pub(super) async fn look_up(&self, ids: &[Uuid]) -> Result<(Answer, Output), NotPassed> {
        let answer = self.ask(&self.lookup(ids)).await?;
        let output = answer.output()?;
        Ok((answer, output))
    }

    /// Holds an answer to the platform's time and size.
    pub(super) fn fits(&self, answer: &Answer) -> Result<(), NotPassed> {
        if answer.took > self.within {
            return Err(failed(format!("within {}", millis(self.within)), format!("after {}", millis(answer.took))));
        }
        let most = self.profile.max_answer;
        if answer.body.len() > most {
            return Err(failed(format!("at most {most} bytes"), format!("{} bytes", answer.body.len())));
        }
        Ok(())
    }
}

pub(super) fn millis(time: Duration) -> String {
    format!("{:.1} ms", time.as_secs_f64() * 1e3)
}
