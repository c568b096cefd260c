//! What each service has to be allowed on the server, and nothing beyond.

use super::reading::UNDIVIDED;
use super::{
    Role,
    names::{self, Names},
};

/// The subjects that one login may use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Permissions {
    /// Where it may publish.
    pub publish: Vec<String>,
    /// Where it may subscribe.
    pub subscribe: Vec<String>,
}

/// What the login of a service needs where `bus.prefix` is `prefix`, and `messaging.partitions` at the most
/// `partitions`.
#[must_use]
pub fn permissions(prefix: &str, partitions: u16, role: &Role) -> Permissions {
    let names = Names::new(prefix);
    let (service, stream, bucket) = (role.service, names.stream(), names.claims());
    let mut publish = vec![
        // Its own events, and its claim.
        names.subject("*", &format!("couponmesh.{service}.>")),
        format!("$KV.{bucket}.{service}"),
        format!("$JS.API.STREAM.INFO.KV_{bucket}"),
        format!("$JS.API.DIRECT.GET.KV_{bucket}.$KV.{bucket}.{service}"),
        // The stream, and whether what was seen in it is still there.
        format!("$JS.API.STREAM.INFO.{stream}"),
        format!("$JS.API.STREAM.MSG.GET.{stream}"),
    ];
    if role.keeps {
        publish.extend([
            "$JS.API.INFO".to_owned(),
            format!("$JS.API.STREAM.CREATE.KV_{bucket}"),
            format!("$JS.API.STREAM.CREATE.{stream}"),
            format!("$JS.API.STREAM.UPDATE.{stream}"),
            format!("$JS.API.STREAM.PURGE.{stream}"),
            format!("$JS.API.CONSUMER.INFO.{stream}.*"),
        ]);
    } else {
        // That of a release up to 0.3.
        publish.push(format!("$JS.API.CONSUMER.INFO.{stream}.{service}"));
    }
    let numbers = (0..partitions).map(|number| number.to_string());
    for partition in numbers.chain([UNDIVIDED.to_owned()]) {
        let consumer = names::consumer(service, &partition);
        publish.extend([
            format!("$JS.API.CONSUMER.CREATE.{stream}.{consumer}"),
            format!("$JS.API.CONSUMER.DELETE.{stream}.{consumer}"),
            format!("$JS.API.CONSUMER.MSG.NEXT.{stream}.{consumer}"),
            format!("$JS.ACK.{stream}.{consumer}.>"),
        ]);
    }
    Permissions {
        publish,
        subscribe: vec![format!("{}.>", names::inbox(service))],
    }
}

/// Logins of `roles`, and one that may do everything for who operates the server, as nats-server's configuration takes
/// them. Each password comes from a variable of the server's environment, e.g. `$MEMBER_PASSWORD`.
#[must_use]
pub fn logins(prefix: &str, partitions: u16, roles: &[Role]) -> String {
    let list = |subjects: &[String]| {
        let lines: Vec<String> = subjects
            .iter()
            .map(|subject| format!("            \"{subject}\"\n"))
            .collect();
        lines.concat()
    };
    let mut text = "authorization {\n  users = [\n    # Whoever looks after the server.\n    { user: operator, password: $OPERATOR_PASSWORD }\n".to_owned();
    for role in roles {
        let Permissions { publish, subscribe } = permissions(prefix, partitions, role);
        let service = role.service;
        text.push_str(&format!(
            "    {{\n      user: {service}, password: ${}_PASSWORD\n      permissions {{\n        publish {{\n          allow: [\n{}          ]\n        }}\n        subscribe {{\n          allow: [\n{}          ]\n        }}\n      }}\n    }}\n",
            service.to_ascii_uppercase(),
            list(&publish),
            list(&subscribe),
        ));
    }
    text.push_str("  ]\n}\n");
    text
}
