//! `AuthenticationConfiguration`, read and compiled.

use std::sync::{Arc, RwLock};

use sampan_cel::{Environment, Type};
use sampan_daemon::tls;
use serde_json::Value;
use tokio::sync::Mutex;

use super::{
    Anonymous, Authentication, Issuer, Keys, Refresh,
    claims::{Expression, Mapping, Rule, Source, of_claims, of_user},
};
use crate::crypt::ConfigError;

/// Where systems keep the CAs that they trust.
const BUNDLES: [&str; 3] =
    ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem"];

/// Issuers at most, as upstream.
const MOST: usize = 64;

impl Authentication {
    /// Compiles an `AuthenticationConfiguration` (`apiserver.config.k8s.io/v1`). Issuers in `own` are this server's
    /// and cannot be configured.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn parse(config: &Value, own: &[&str]) -> Result<Self, ConfigError> {
        let mut errors = Vec::new();
        if config["kind"].as_str().is_some_and(|kind| kind != "AuthenticationConfiguration") {
            errors.push("kind: must be AuthenticationConfiguration".to_owned());
        }
        let mut issuers: Vec<Issuer> = Vec::new();
        let list = config["jwt"].as_array().map(Vec::as_slice).unwrap_or_default();
        if list.len() > MOST {
            errors.push(format!("jwt: Too many: {}: must have at most {MOST} items", list.len()));
        }
        for (index, one) in list.iter().take(MOST).enumerate() {
            let mut reader = Reader { at: format!("jwt[{index}]"), errors: &mut errors };
            let issuer = reader.issuer(one, own);
            if let Some(issuer) = issuer {
                if issuers.iter().any(|other| other.url == issuer.url) {
                    errors.push(format!("jwt[{index}].issuer.url: Duplicate value: {:?}", issuer.url));
                }
                issuers.push(issuer);
            }
        }
        let anonymous = anonymous(&config["anonymous"]);
        if errors.is_empty() { Ok(Self { issuers, anonymous }) } else { Err(ConfigError(errors)) }
    }
}

fn anonymous(config: &Value) -> Anonymous {
    let paths = config["conditions"].as_array().map(Vec::as_slice).unwrap_or_default();
    if config.is_null() {
        Anonymous::Everywhere
    } else if config["enabled"] != true {
        Anonymous::Nowhere
    } else if paths.is_empty() {
        Anonymous::Everywhere
    } else {
        Anonymous::At(paths.iter().filter_map(|one| one["path"].as_str()).map(str::to_owned).collect())
    }
}

/// Reads one issuer; gathers what is wrong.
struct Reader<'a> {
    at: String,
    errors: &'a mut Vec<String>,
}

impl Reader<'_> {
    fn wrong(&mut self, field: &str, why: &str) {
        self.errors.push(format!("{}.{field}: {why}", self.at));
    }

    fn issuer(&mut self, config: &Value, own: &[&str]) -> Option<Issuer> {
        let before = self.errors.len();
        let issuer = &config["issuer"];
        let url = issuer["url"].as_str().unwrap_or_default();
        if !url.starts_with("https://") || url.contains(['?', '#', '@']) {
            self.wrong("issuer.url", &format!("Invalid value: {url:?}: URL scheme must be https"));
        }
        if own.contains(&url) {
            self.wrong(
                "issuer.url",
                &format!("Invalid value: {url:?}: URL must not overlap with disallowed issuers"),
            );
        }
        let discovery = match issuer["discoveryURL"].as_str().filter(|url| !url.is_empty()) {
            Some(place) if !place.starts_with("https://") => {
                self.wrong("issuer.discoveryURL", "Invalid value: URL scheme must be https");
                String::new()
            }
            Some(place) => place.to_owned(),
            None => format!("{}/.well-known/openid-configuration", url.trim_end_matches('/')),
        };
        let audiences: Vec<String> = strings(&issuer["audiences"]);
        if audiences.is_empty() {
            self.wrong("issuer.audiences", "Required value: at least one issuer.audiences is required");
        }
        let policy = issuer["audienceMatchPolicy"].as_str().unwrap_or_default();
        if !matches!(policy, "" | "MatchAny") || (policy.is_empty() && audiences.len() > 1) {
            self.wrong("issuer.audienceMatchPolicy", "Invalid value: must be MatchAny for several audiences");
        }
        let tls = self.trust(issuer["certificateAuthority"].as_str().unwrap_or_default());
        let mapping = self.mapping(config);
        let (tls, mapping) = (tls?, mapping?);
        (self.errors.len() == before).then(|| Issuer {
            url: url.to_owned(),
            discovery,
            tls,
            audiences,
            mapping,
            keys: RwLock::new(Arc::new(Keys::default())),
            refresh: Mutex::new(Refresh::default()),
        })
    }

    fn trust(&mut self, pem: &str) -> Option<Arc<rustls::ClientConfig>> {
        let bundle = match pem {
            "" => BUNDLES.iter().find_map(|path| std::fs::read_to_string(path).ok()).unwrap_or_default(),
            pem => pem.to_owned(),
        };
        match tls::client_config(&bundle, None) {
            Ok(config) if bundle.contains("BEGIN CERTIFICATE") => Some(config),
            Ok(_) => {
                self.wrong("issuer.certificateAuthority", "Invalid value: holds no certificate");
                None
            }
            Err(error) => {
                self.wrong("issuer.certificateAuthority", &format!("Invalid value: {error}"));
                None
            }
        }
    }

    fn mapping(&mut self, config: &Value) -> Option<Mapping> {
        let (of_claims, of_user) = (of_claims(), of_user());
        let maps = &config["claimMappings"];
        let username = self.source(&maps["username"], "claimMappings.username", &of_claims, true);
        let groups = self.source(&maps["groups"], "claimMappings.groups", &of_claims, true);
        let uid = self.source(&maps["uid"], "claimMappings.uid", &of_claims, false);
        let mut extra: Vec<(String, Expression)> = Vec::new();
        for (index, one) in maps["extra"].as_array().into_iter().flatten().enumerate() {
            let field = format!("claimMappings.extra[{index}]");
            let key = one["key"].as_str().unwrap_or_default();
            let good =
                key.split_once('/').is_some_and(|(domain, path)| domain.contains('.') && !path.is_empty());
            if !good || key != key.to_lowercase() || extra.iter().any(|(other, _)| other == key) {
                self.wrong(
                    &field,
                    &format!("key: Invalid value: {key:?}: must be lower case, domain/path, and once"),
                );
            }
            let source = one["valueExpression"].as_str().unwrap_or_default();
            if let Some(expression) = self.expression(&of_claims, source, &field, &[]) {
                extra.push((key.to_owned(), expression));
            }
        }
        let claim_rules = self.rules(&config["claimValidationRules"], "claimValidationRules", &of_claims);
        let user_rules = self.rules(&config["userValidationRules"], "userValidationRules", &of_user);
        let Some(username) = username else {
            self.wrong("claimMappings.username", "Required value: claim or expression is required");
            return None;
        };
        if let Source::Expression(expression) = &username
            && expression.uses("claims.email")
            && !expression.uses("claims.email_verified")
            && !extra.iter().any(|(_, one)| one.uses("claims.email_verified"))
            && !claim_rules.iter().any(|rule| {
                matches!(rule, Rule::Expression { expression, .. } if expression.uses("claims.email_verified"))
            })
        {
            let why = "Invalid value: claims.email_verified must be used in claimMappings.username.expression or claimMappings.extra[*].valueExpression or claimValidationRules[*].expression when claims.email is used in claimMappings.username.expression";
            self.wrong("claimMappings.username.expression", why);
        }
        Some(Mapping { username, groups, uid, extra, claim_rules, user_rules })
    }

    fn source(
        &mut self,
        config: &Value,
        field: &str,
        environment: &Arc<Environment>,
        prefixed: bool,
    ) -> Option<Source> {
        let text = |name: &str| config[name].as_str().filter(|text| !text.is_empty());
        match (text("claim"), text("expression")) {
            (None, None) => None,
            (Some(_), Some(_)) => {
                self.wrong(field, "Invalid value: claim and expression can't both be set");
                None
            }
            (Some(claim), None) => {
                if prefixed && config["prefix"].is_null() {
                    let why = "Required value: prefix is required when claim is set. It can be set to an empty string to disable prefixing";
                    self.wrong(&format!("{field}.prefix"), why);
                }
                let prefix = config["prefix"].as_str().unwrap_or_default().to_owned();
                Some(Source::Claim { name: claim.to_owned(), prefix })
            }
            (None, Some(source)) => {
                if prefixed && !config["prefix"].is_null() {
                    self.wrong(
                        &format!("{field}.prefix"),
                        "Invalid value: prefix can't be set when expression is set",
                    );
                }
                self.expression(environment, source, field, &[]).map(Source::Expression)
            }
        }
    }

    fn rules(&mut self, list: &Value, field: &str, environment: &Arc<Environment>) -> Vec<Rule> {
        let mut rules = Vec::new();
        for (index, one) in list.as_array().into_iter().flatten().enumerate() {
            let at = format!("{field}[{index}]");
            let text = |name: &str| one[name].as_str().unwrap_or_default().to_owned();
            match (text("claim"), text("expression")) {
                (claim, source) if source.is_empty() && !claim.is_empty() => {
                    rules.push(Rule::Claim { name: claim, value: text("requiredValue") });
                }
                (claim, source) if claim.is_empty() && !source.is_empty() => {
                    let compiled = self.expression(environment, &source, &at, &[Type::Bool]);
                    rules.extend(
                        compiled.map(|expression| Rule::Expression { expression, message: text("message") }),
                    );
                }
                _ => self.wrong(&at, "Required value: exactly one of claim and expression is required"),
            }
        }
        rules
    }

    fn expression(
        &mut self,
        environment: &Arc<Environment>,
        source: &str,
        field: &str,
        results: &[Type],
    ) -> Option<Expression> {
        match Expression::compile(environment, source, results) {
            Ok(expression) => Some(expression),
            Err(why) => {
                self.wrong(field, &format!("Invalid value: {source:?}: {why}"));
                None
            }
        }
    }
}

fn strings(list: &Value) -> Vec<String> {
    list.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
}
