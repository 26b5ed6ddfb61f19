//! One certificate: the account it is ordered with, the proofs by DNS, and what comes of them.

use std::{path::Path, time::Duration};

use instant_acme::{
    Account, AccountCredentials, AuthorizationStatus, ChallengeType, Identifier, NewAccount,
    NewOrder, Order, OrderStatus, RetryPolicy,
};
use rcgen::{CertificateParams, KeyPair};

use super::{
    Error, Settings, failed,
    hook::{Hook, Record},
    web::Web,
};
use crate::tls::{SECRET, certificates_in, write};

/// How long an authority may take to look at the records, and to sign.
const PATIENCE: Duration = Duration::from_secs(5 * 60);

/// A new key and the certificate for it with its chain, in one PEM.
pub(super) async fn order(
    settings: &Settings,
    account_file: &Path,
    hook: &Hook,
) -> Result<String, Error> {
    let domain = &settings.domain;
    let names = [domain.clone(), format!("*.{domain}")];
    let account = account(settings, account_file).await?;
    let identifiers = names.clone().map(Identifier::Dns);
    let order = account.new_order(&NewOrder::new(&identifiers)).await;
    let mut order = order.map_err(|error| refused(error, account_file))?;
    prove(&mut order, domain, hook).await?;

    let key = KeyPair::generate().map_err(super::super::Error::from)?;
    let request = CertificateParams::new(names)
        .and_then(|params| params.serialize_request(&key))
        .map_err(super::super::Error::from)?;
    order.finalize_csr(request.der()).await.map_err(asked("ask for the signature"))?;
    let chain = order.poll_certificate(&retries()).await.map_err(asked("get the certificate"))?;
    Ok(format!("{}{chain}", key.serialize_pem()))
}

fn refused(source: instant_acme::Error, account_file: &Path) -> Error {
    let unknown = matches!(&source, instant_acme::Error::Api(problem)
        if problem.r#type.as_deref() == Some("urn:ietf:params:acme:error:accountDoesNotExist"));
    match unknown {
        true => Error::NoAccount { file: account_file.to_owned(), source },
        false => asked("order a certificate")(source),
    }
}

/// Between one question whether it is done and the next, where the authority does not say.
fn retries() -> RetryPolicy {
    RetryPolicy::new().initial_delay(Duration::from_millis(500)).backoff(1.2).timeout(PATIENCE)
}

/// Whether the authority answers.
pub(super) async fn ask(settings: &Settings) -> Result<(), Error> {
    use instant_acme::HttpClient;

    let request =
        http::Request::get(&settings.directory).body(instant_acme::BodyWrapper::default());
    let request = request.map_err(|error| asked("ask the authority")(error.into()))?;
    let answer = web(settings)?.request(request).await.map_err(asked("ask the authority"))?;
    let status = answer.parts.status;
    if !status.is_success() {
        let source = format!("{}: it answers {status}", settings.directory).into();
        return Err(asked("ask the authority")(instant_acme::Error::Other(source)));
    }
    Ok(())
}

fn web(settings: &Settings) -> Result<Web, Error> {
    let roots = match &settings.ca {
        Some(path) => certificates_in(path)?,
        None => rustls_native_certs::load_native_certs().certs,
    };
    if roots.is_empty() {
        return Err(Error::NoRoots);
    }
    let refused =
        |source| asked("trust the authority's server")(instant_acme::Error::Other(source));
    Web::new(roots).map_err(|error: rustls::Error| refused(error.into()))
}

/// The one that is there, or a new one.
async fn account(settings: &Settings, file: &Path) -> Result<Account, Error> {
    let builder = Account::builder_with_http(Box::new(web(settings)?));
    match std::fs::read(file) {
        Ok(text) => {
            let known: AccountCredentials = serde_json::from_slice(&text)
                .map_err(|error| failed("read the account in", file)(error.into()))?;
            builder.from_credentials(known).await.map_err(asked("take the account up"))
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let contact = settings.contact.as_ref().map(|mail| format!("mailto:{mail}"));
            let contact: Vec<_> = contact.iter().map(String::as_str).collect();
            let wanted = NewAccount {
                contact: &contact,
                // Whoever names the authority's URL does.
                terms_of_service_agreed: true,
                only_return_existing: false,
            };
            let made = builder.create(&wanted, settings.directory.clone(), None).await;
            let (account, known) = made.map_err(asked("open an account"))?;
            let text = serde_json::to_string(&known)
                .map_err(|error| failed("write the account to", file)(error.into()))?;
            write(file, SECRET, &text)?;
            tracing::info!(id = account.id(), "a new account with the authority");
            Ok(account)
        }
        Err(error) => Err(failed("read the account in", file)(error)),
    }
}

/// Proves that the domain is ours by records that are there for as long as that takes.
async fn prove(order: &mut Order, domain: &str, hook: &Hook) -> Result<(), Error> {
    let mut records = Vec::new();
    let proven = prove_by(order, domain, hook, &mut records).await;
    for record in records {
        if let Err(error) = hook.cleanup(&record).await {
            tracing::warn!(%error, "a record of the challenge stays behind, which does no harm");
        }
    }
    proven
}

async fn prove_by(
    order: &mut Order,
    domain: &str,
    hook: &Hook,
    records: &mut Vec<Record>,
) -> Result<(), Error> {
    let name = format!("_acme-challenge.{domain}");
    // The domain and the wildcard are proven apart, by two records of one name: both are there
    // before either is looked at, as the first answer may be remembered on the way.
    let mut authorizations = order.authorizations();
    while let Some(next) = authorizations.next().await {
        let mut next = next.map_err(asked("see what is to be proven"))?;
        if next.status == AuthorizationStatus::Valid {
            continue;
        }
        let challenge = next.challenge(ChallengeType::Dns01);
        let challenge = challenge.ok_or_else(|| Error::NoDns(domain.to_owned()))?;
        let value = challenge.key_authorization().dns_value();
        // Also one that the program fails at may be there.
        records.push(Record { name: name.clone(), value });
        if let Some(record) = records.last() {
            hook.present(record).await?;
        }
    }
    let mut authorizations = order.authorizations();
    while let Some(next) = authorizations.next().await {
        let mut next = next.map_err(asked("see what is to be proven"))?;
        if next.status == AuthorizationStatus::Valid {
            continue;
        }
        if let Some(mut challenge) = next.challenge(ChallengeType::Dns01) {
            challenge.set_ready().await.map_err(asked("have the proof looked at"))?;
        }
    }
    let said = match order.poll_ready(&retries()).await {
        Ok(OrderStatus::Ready) => return Ok(()),
        Ok(_) => why_not(order).await,
        Err(instant_acme::Error::Api(problem)) => problem.to_string(),
        Err(error) => return Err(asked("have the proof looked at")(error)),
    };
    Err(Error::NotProven { domain: domain.to_owned(), said })
}

/// What the authority found instead of what it was to find.
async fn why_not(order: &mut Order) -> String {
    let mut said = Vec::new();
    let mut authorizations = order.authorizations();
    while let Some(next) = authorizations.next().await {
        let Ok(mut next) = next else { continue };
        // As it is now: what is known is from before the look.
        let Ok(state) = next.refresh().await else { continue };
        let errors = state.challenges.iter().filter_map(|challenge| challenge.error.as_ref());
        said.extend(errors.map(ToString::to_string));
    }
    if said.is_empty() { "it does not say why".to_owned() } else { said.join("; ") }
}

fn asked(doing: &'static str) -> impl FnOnce(instant_acme::Error) -> Error {
    move |source| Error::Authority { doing, source }
}
