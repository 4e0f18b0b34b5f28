//! Who is asking, and what they may do: users with roles in projects, robots, and the tokens that Docker's token flow
//! hands out (<https://distribution.github.io/distribution/spec/auth/token/>).

use std::{
    collections::HashMap,
    net::IpAddr,
    num::NonZeroU32,
    path::Path,
    sync::{Mutex, PoisonError},
};

use base64::{
    Engine,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use http::{HeaderMap, StatusCode, header};
use ring::{hmac, pbkdf2};
use sampan_daemon::Supervisor;
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;

use crate::{
    digest::{Digest, hex},
    error::{ApiError, ApiResult, Error},
    meta::{self, Change, Meta, Project, Robot, Role, User, keys},
};

/// Seconds that a token is good for.
pub(crate) const TOKEN_LIFE: i64 = 300;
/// What tokens are for.
pub(crate) const SERVICE: &str = "sampan-registry";
const ROUNDS: NonZeroU32 = NonZeroU32::MIN.saturating_add(59_999);
/// Passwords that were right lately need not be computed again for so many seconds.
const REMEMBER: i64 = 300;
const REMEMBERED: usize = 4096;
/// Wrong passwords of one address in a minute before it has to wait.
const FAILURES: u32 = 20;
const FAILING: usize = 10_000;
/// Passwords that are computed at a time.
const GUESSING: usize = 2;

/// Who is asking.
#[derive(Clone, Debug)]
pub(crate) enum Caller {
    Anonymous,
    /// Whoever may open our socket, anybody in an open registry, and we ourselves.
    System(&'static str),
    User {
        name: String,
        admin: bool,
    },
    Robot {
        name: String,
        robot: Robot,
    },
    /// With a token, which says less than its subject may.
    Token {
        subject: Box<Caller>,
        access: Vec<Access>,
    },
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    Pull,
    Push,
    Delete,
    /// Maintain or administer the project.
    Manage(Role),
}

impl Action {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Pull => "pull",
            Self::Push => "push",
            Self::Delete => "delete",
            Self::Manage(_) => "manage",
        }
    }

    fn needs(self) -> Role {
        match self {
            Self::Pull => Role::Guest,
            Self::Push => Role::Developer,
            Self::Delete => Role::Maintainer,
            Self::Manage(role) => role,
        }
    }
}

/// A part of a token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Access {
    #[serde(rename = "type")]
    pub(crate) kind: String,
    pub(crate) name: String,
    pub(crate) actions: Vec<String>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Claims {
    iss: String,
    aud: String,
    sub: String,
    iat: i64,
    exp: i64,
    jti: String,
    access: Vec<Access>,
}

impl Caller {
    pub(crate) fn name(&self) -> &str {
        match self {
            Self::Anonymous => "",
            Self::System(name) => name,
            Self::User { name, .. } | Self::Robot { name, .. } => name,
            Self::Token { subject, .. } => subject.name(),
        }
    }

    pub(crate) fn is_anonymous(&self) -> bool {
        self.name().is_empty()
    }

    /// May do everything.
    pub(crate) fn is_admin(&self) -> bool {
        match self {
            Self::System(_) => true,
            Self::User { admin, .. } => *admin,
            Self::Token { subject, .. } => subject.is_admin(),
            Self::Anonymous | Self::Robot { .. } => false,
        }
    }

    /// May do this in a repository of a project.
    pub(crate) fn may(&self, action: Action, repository: &str, project: Option<&Project>) -> bool {
        let public = action == Action::Pull && project.is_some_and(|project| project.public);
        match self {
            Self::Token { subject, access } => {
                let granted = access.iter().any(|access| {
                    access.kind == "repository"
                        && access.name == repository
                        && access.actions.iter().any(|granted| granted == action.name() || granted == "*")
                });
                (granted || public) && subject.may(action, repository, project)
            }
            _ if public => true,
            Self::Anonymous => false,
            Self::System(_) => true,
            Self::User { admin: true, .. } => true,
            Self::User { name, .. } => project
                .and_then(|project| project.members.get(name))
                .is_some_and(|role| *role >= action.needs()),
            Self::Robot { robot, .. } => {
                let mine = robot.project.is_empty() || robot.project == crate::name::project_of(repository);
                mine && project.is_some() && robot.actions.iter().any(|allowed| allowed == action.name())
            }
        }
    }
}

/// User, a keyed hash of the password, and the stored hash it was right for; remembered until a time.
type Remembered = (String, Vec<u8>, String);

/// Checks who somebody is.
#[derive(Debug)]
pub(crate) struct Auth {
    key: hmac::Key,
    remembered: Mutex<HashMap<Remembered, i64>>,
    failures: Mutex<HashMap<IpAddr, (u32, i64)>>,
    /// The hash of no password.
    nobody: String,
    guessing: Semaphore,
}

impl Auth {
    /// The key of tokens is kept, so that they outlive a restart.
    pub(crate) fn open(dir: &Path) -> Result<Self, Error> {
        let path = dir.join("token.key");
        let secret = match std::fs::read(&path) {
            Ok(secret) if secret.len() == 32 => secret,
            _ => {
                let secret: [u8; 32] = rand::random();
                write_secret(&path, &secret)?;
                secret.to_vec()
            }
        };
        let key = hmac::Key::new(hmac::HMAC_SHA256, &secret);
        // As long to verify as any other, and nothing matches it.
        let nobody = written(&rand::random(), &rand::random());
        let guessing = Semaphore::new(GUESSING);
        Ok(Self { key, remembered: Mutex::default(), failures: Mutex::default(), nobody, guessing })
    }

    /// The first administrator, with a password in a file that only its owner reads.
    pub(crate) async fn first_admin(
        &self,
        meta: &Meta,
        dir: &Path,
        supervisor: &Supervisor,
    ) -> Result<(), Error> {
        let failed = |error: ApiError| Error::Option(error.message);
        if !meta.records::<User>("u/").await.map_err(failed)?.is_empty() {
            return Ok(());
        }
        let path = dir.join("admin-password");
        let written = supervisor.blocking(move || {
            let password = random_secret();
            write_secret(&path, format!("{password}\n").as_bytes())?;
            Ok::<_, Error>(hash_secret(&password))
        });
        let password = written.await?;
        let user = User { password, admin: true, made: meta::now(), ..User::default() };
        let mut change = Change::default();
        change.at(keys::named("u/", "admin"), 0).put_json(keys::named("u/", "admin"), &user);
        meta.commit(change).await.map_err(failed)?;
        Ok(())
    }

    /// By the `Authorization` of a request.
    pub(crate) async fn caller(&self, meta: &Meta, headers: &HeaderMap, from: IpAddr) -> ApiResult<Caller> {
        let Some(value) = headers.get(header::AUTHORIZATION) else { return Ok(Caller::Anonymous) };
        let unreadable =
            || unauthorized("the Authorization header cannot be understood (hint: Basic or Bearer)");
        let value = value.to_str().map_err(|_| unreadable())?;
        let (scheme, rest) = value.split_once(' ').ok_or_else(unreadable)?;
        if scheme.eq_ignore_ascii_case("bearer") {
            return self.token_caller(meta, rest.trim()).await;
        }
        if !scheme.eq_ignore_ascii_case("basic") {
            return Err(unreadable());
        }
        let decoded = STANDARD.decode(rest.trim()).ok().and_then(|bytes| String::from_utf8(bytes).ok());
        let decoded = decoded.ok_or_else(unreadable)?;
        let (name, password) = decoded.split_once(':').ok_or_else(unreadable)?;
        if name.is_empty() && password.is_empty() {
            return Ok(Caller::Anonymous);
        }
        self.login(meta, name, password, from).await
    }

    /// By name and password.
    pub(crate) async fn login(
        &self,
        meta: &Meta,
        name: &str,
        password: &str,
        from: IpAddr,
    ) -> ApiResult<Caller> {
        self.check_failures(from)?;
        let wrong = || unauthorized("wrong user or password, or the account is disabled or has expired");
        let outcome = if name.starts_with("robot$") {
            let robot = self.robot(meta, name).await?;
            robot.filter(|robot| robot.secret == hex(Digest::of(password.as_bytes()).bytes())).map(|robot| {
                let name = name.to_owned();
                Caller::Robot { name, robot }
            })
        } else {
            let user = meta.record::<User>(keys::named("u/", name)).await?.map(|(user, _)| user);
            // Somebody who does not exist takes as long as a wrong password.
            let known = user.filter(|user| !user.disabled);
            let user =
                known.clone().unwrap_or_else(|| User { password: self.nobody.clone(), ..User::default() });
            let right = self.password_is(name, &user, password, from).await?;
            known.filter(|_| right).map(|user| Caller::User { name: name.to_owned(), admin: user.admin })
        };
        if outcome.is_none() {
            self.count_failure(from);
        }
        outcome.ok_or_else(wrong)
    }

    async fn robot(&self, meta: &Meta, name: &str) -> ApiResult<Option<Robot>> {
        let robot = meta.record::<Robot>(keys::named("k/", name)).await?.map(|(robot, _)| robot);
        Ok(robot.filter(|robot| !robot.disabled && (robot.expires == 0 || robot.expires > meta::now())))
    }

    async fn password_is(&self, name: &str, user: &User, password: &str, from: IpAddr) -> ApiResult<bool> {
        let tag = hmac::sign(&self.key, password.as_bytes()).as_ref().to_vec();
        let entry = (name.to_owned(), tag, user.password.clone());
        let now = meta::now();
        let remembered = |entry| {
            let all = self.remembered.lock().unwrap_or_else(PoisonError::into_inner);
            all.get(entry).is_some_and(|until| *until > now)
        };
        if remembered(&entry) {
            return Ok(true);
        }
        // So few at a time that there is a processor left for everybody else, and that what was found out meanwhile
        // counts.
        let Ok(_turn) = self.guessing.acquire().await else { return Ok(false) };
        if remembered(&entry) {
            return Ok(true);
        }
        self.check_failures(from)?;
        let (stored, password) = (user.password.clone(), password.to_owned());
        let right =
            tokio::task::spawn_blocking(move || verify_password(&stored, &password)).await.unwrap_or(false);
        if right {
            let mut all = self.remembered.lock().unwrap_or_else(PoisonError::into_inner);
            if all.len() >= REMEMBERED {
                all.clear();
            }
            all.insert(entry, now + REMEMBER);
        }
        Ok(right)
    }

    fn check_failures(&self, from: IpAddr) -> ApiResult<()> {
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        let (now, from) = (meta::now(), neighbourhood(from));
        if failures.len() >= FAILING && !failures.contains_key(&from) {
            failures.retain(|_, (_, since)| now - *since < 60);
        }
        match failures.get(&from) {
            Some((count, since)) if *count >= FAILURES && now - since < 60 => {
                Err(ApiError::too_many("too many wrong passwords from this address (hint: wait a minute)"))
            }
            None if failures.len() >= FAILING => Err(ApiError::too_many(
                "too many wrong passwords from too many addresses (hint: wait a minute)",
            )),
            _ => Ok(()),
        }
    }

    fn count_failure(&self, from: IpAddr) {
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        let now = meta::now();
        let (count, since) = failures.entry(neighbourhood(from)).or_insert((0, now));
        if now - *since >= 60 {
            (*count, *since) = (0, now);
        }
        *count += 1;
    }

    /// A token for what was asked for and is allowed.
    pub(crate) fn token(&self, subject: &str, access: Vec<Access>) -> String {
        let now = meta::now();
        let claims = Claims {
            iss: SERVICE.to_owned(),
            aud: SERVICE.to_owned(),
            sub: subject.to_owned(),
            iat: now,
            exp: now + TOKEN_LIFE,
            jti: uuid::Uuid::new_v4().to_string(),
            access,
        };
        let head = URL_SAFE_NO_PAD.encode(br#"{"alg":"HS256","typ":"JWT"}"#);
        let claims = URL_SAFE_NO_PAD.encode(serde_json::to_vec(&claims).unwrap_or_default());
        let signature = hmac::sign(&self.key, format!("{head}.{claims}").as_bytes());
        format!("{head}.{claims}.{}", URL_SAFE_NO_PAD.encode(signature.as_ref()))
    }

    async fn token_caller(&self, meta: &Meta, token: &str) -> ApiResult<Caller> {
        let bad = || unauthorized("the token is not valid (hint: log in again)");
        let (signed, signature) = token.rsplit_once('.').ok_or_else(bad)?;
        let signature = URL_SAFE_NO_PAD.decode(signature).map_err(|_| bad())?;
        hmac::verify(&self.key, signed.as_bytes(), &signature).map_err(|_| bad())?;
        let claims = signed.split_once('.').and_then(|(_, claims)| URL_SAFE_NO_PAD.decode(claims).ok());
        let claims: Claims = serde_json::from_slice(&claims.ok_or_else(bad)?).map_err(|_| bad())?;
        if claims.aud != SERVICE || claims.exp <= meta::now() {
            return Err(unauthorized(
                "the token has expired (hint: clients ask for a new one by themselves)",
            ));
        }
        // What became of the subject since then counts.
        let subject = if claims.sub.is_empty() {
            Caller::Anonymous
        } else if claims.sub.starts_with("robot$") {
            let robot = self.robot(meta, &claims.sub).await?.ok_or_else(bad)?;
            Caller::Robot { name: claims.sub, robot }
        } else {
            let user = meta.record::<User>(keys::named("u/", &claims.sub)).await?;
            let (user, _) = user.filter(|(user, _)| !user.disabled).ok_or_else(bad)?;
            Caller::User { name: claims.sub, admin: user.admin }
        };
        Ok(Caller::Token { subject: Box::new(subject), access: claims.access })
    }
}

/// Who has one IPv6 address has 2^64.
fn neighbourhood(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V6(address) if address.to_ipv4_mapped().is_none() => {
            let mut octets = address.octets();
            octets[8..].fill(0);
            octets.into()
        }
        other => other,
    }
}

/// 401; the challenge is added where the address of the token service is known.
pub(crate) fn unauthorized(message: &str) -> ApiError {
    ApiError::new(StatusCode::UNAUTHORIZED, "UNAUTHORIZED", message)
}

/// 40 letters and digits.
pub(crate) fn random_secret() -> String {
    const LETTERS: &[u8] = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789";
    (0..40).map(|_| char::from(LETTERS[rand::random_range(0..LETTERS.len())])).collect()
}

/// PBKDF2-HMAC-SHA-256: `salt.hash`, base64.
pub(crate) fn hash_password(password: &str) -> String {
    let (salt, hash) = derive(password, ROUNDS);
    written(&salt, &hash)
}

/// The same for a secret that nobody can guess, so that one round is enough: `1.salt.hash`.
fn hash_secret(secret: &str) -> String {
    let (salt, hash) = derive(secret, NonZeroU32::MIN);
    format!("1.{}", written(&salt, &hash))
}

fn derive(password: &str, rounds: NonZeroU32) -> ([u8; 16], [u8; 32]) {
    let (salt, mut hash): ([u8; 16], _) = (rand::random(), [0; 32]);
    pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, rounds, &salt, password.as_bytes(), &mut hash);
    (salt, hash)
}

fn written(salt: &[u8; 16], hash: &[u8; 32]) -> String {
    format!("{}.{}", STANDARD.encode(salt), STANDARD.encode(hash))
}

fn verify_password(stored: &str, password: &str) -> bool {
    let (stored, rounds) = match stored.strip_prefix("1.") {
        Some(stored) => (stored, NonZeroU32::MIN),
        None => (stored, ROUNDS),
    };
    let Some((salt, hash)) = stored.split_once('.') else { return false };
    let (Ok(salt), Ok(hash)) = (STANDARD.decode(salt), STANDARD.decode(hash)) else { return false };
    let right = pbkdf2::verify(pbkdf2::PBKDF2_HMAC_SHA256, rounds, &salt, password.as_bytes(), &hash).is_ok();
    if !right && rounds < ROUNDS {
        // A wrong password takes as long for one as for the other.
        derive(password, ROUNDS);
    }
    right
}

/// A file that only its owner reads, made whole.
fn write_secret(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    use std::{io::Write, os::unix::fs::OpenOptionsExt};
    let temporary = path.with_extension("new");
    let _ = std::fs::remove_file(&temporary);
    let written =
        std::fs::File::options().create_new(true).write(true).mode(0o600).open(&temporary).and_then(
            |mut file| {
                file.write_all(bytes)?;
                file.sync_all()?;
                std::fs::rename(&temporary, path)
            },
        );
    written.map_err(Error::io(path.display().to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_are_kept_as_hashes() {
        let stored = hash_password("secret");
        assert!(!stored.contains("secret"));
        assert!(verify_password(&stored, "secret"));
        assert!(!verify_password(&stored, "Secret"));
        assert!(!verify_password("noise", "secret"));
        let stored = hash_secret("secret");
        assert!(verify_password(&stored, "secret"));
        assert!(!verify_password(&stored, "Secret"));
    }

    #[test]
    fn wrong_passwords_from_everywhere_keep_nobody_out_for_longer_than_a_minute() {
        let dir = tempfile::tempdir().unwrap();
        let auth = Auth::open(dir.path()).unwrap();
        let fill = |since: i64| {
            let address = |n: usize| IpAddr::from((u128::try_from(n).unwrap() << 64).to_be_bytes());
            *auth.failures.lock().unwrap() = (0..FAILING).map(|n| (address(n), (1, since))).collect();
        };
        let from = IpAddr::from([192, 0, 2, 1]);
        fill(meta::now());
        assert!(auth.check_failures(from).is_err());
        fill(meta::now() - 61);
        assert!(auth.check_failures(from).is_ok());
        // A minute after the first one counting begins anew.
        auth.failures.lock().unwrap().insert(from, (FAILURES, meta::now() - 61));
        auth.count_failure(from);
        assert_eq!(auth.failures.lock().unwrap()[&from].0, 1);
    }

    #[test]
    fn roles_include_each_other_and_a_token_says_less_than_its_subject_may() {
        let mut project = Project::default();
        project.members.insert("dev".into(), Role::Developer);
        let dev = Caller::User { name: "dev".into(), admin: false };
        let project = Some(&project);
        assert!(dev.may(Action::Push, "p/a", project) && dev.may(Action::Pull, "p/a", project));
        assert!(!dev.may(Action::Delete, "p/a", project));
        assert!(!Caller::Anonymous.may(Action::Pull, "p/a", project));
        let access = |actions: &[&str]| {
            let actions = actions.iter().map(|action| (*action).to_owned()).collect();
            vec![Access { kind: "repository".into(), name: "p/a".into(), actions }]
        };
        let token = |subject: &Caller, actions| Caller::Token {
            subject: Box::new(subject.clone()),
            access: access(actions),
        };
        assert!(!token(&dev, &["pull"]).may(Action::Push, "p/a", project));
        assert!(token(&dev, &["pull", "push", "delete"]).may(Action::Push, "p/a", project));
        assert!(!token(&dev, &["pull", "push", "delete"]).may(Action::Delete, "p/a", project));
        assert!(!token(&dev, &["pull"]).may(Action::Pull, "p/b", project));
        assert!(!token(&Caller::Anonymous, &["pull"]).may(Action::Pull, "p/a", project));
        let public = Project { public: true, ..Project::default() };
        assert!(Caller::Anonymous.may(Action::Pull, "p/a", Some(&public)));
        assert!(!Caller::Anonymous.may(Action::Push, "p/a", Some(&public)));
    }
}
