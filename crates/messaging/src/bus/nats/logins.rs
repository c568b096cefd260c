//! What each service has to be allowed on the server.

use super::{
    Role,
    names::{self, Names},
    reading::UNDIVIDED,
};

/// The subjects that one login may use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Permissions {
    /// Where it may publish.
    pub publish: Vec<String>,
    /// Where it may subscribe.
    pub subscribe: Vec<String>,
}

/// What the login of a service needs. `prefix` is `bus.prefix`; the stream may have up to `partitions` partitions.
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
        // The consumer of a release up to 0.3.
        format!("$JS.API.CONSUMER.INFO.{stream}.{service}"),
    ];
    if role.keeps {
        publish.extend([
            format!("$JS.API.STREAM.CREATE.KV_{bucket}"),
            format!("$JS.API.STREAM.CREATE.{stream}"),
            format!("$JS.API.STREAM.UPDATE.{stream}"),
            format!("$JS.API.STREAM.PURGE.{stream}"),
            format!("$JS.API.CONSUMER.INFO.{stream}.*"),
        ]);
    }
    let numbers = (0..partitions).map(|number| number.to_string());
    for partition in numbers.chain([UNDIVIDED.to_owned()]) {
        let consumer = names::consumer(service, &partition);
        publish.extend([
            format!("$JS.API.CONSUMER.CREATE.{stream}.{consumer}"),
            format!("$JS.API.CONSUMER.DELETE.{stream}.{consumer}"),
            // The client asks for it after each loss of the connection.
            format!("$JS.API.CONSUMER.INFO.{stream}.{consumer}"),
            format!("$JS.API.CONSUMER.MSG.NEXT.{stream}.{consumer}"),
            format!("$JS.ACK.{stream}.{consumer}.>"),
        ]);
    }
    Permissions {
        publish,
        subscribe: vec![format!("{}.>", names.inbox(service))],
    }
}

/// Logins of `roles`, and one that may do everything for who operates the server, as nats-server's configuration takes
/// them: `users` of an account, or of `authorization`. Each password comes from a variable of the server's environment.
#[must_use]
pub fn logins(prefix: &str, partitions: u16, roles: &[Role]) -> String {
    let password = |user: &str| {
        let variable = user.replace('-', "_").to_ascii_uppercase();
        format!("user: {user}, password: ${variable}_PASSWORD")
    };
    let list = |subjects: &[String]| {
        let line = |subject: &String| format!("          \"{subject}\"\n");
        let lines: Vec<String> = subjects.iter().map(line).collect();
        format!(
            "{{\n        allow: [\n{}        ]\n      }}",
            lines.concat()
        )
    };
    let mut text = format!(
        "users = [\n  # Whoever looks after the server.\n  {{ {} }}\n",
        password(&format!("{prefix}-operator"))
    );
    for role in roles {
        let Permissions { publish, subscribe } = permissions(prefix, partitions, role);
        text += &format!(
            "  {{\n    {}\n    permissions {{\n      publish {}\n      subscribe {}\n    }}\n  }}\n",
            password(&format!("{prefix}-{}", role.service)),
            list(&publish),
            list(&subscribe),
        );
    }
    text += "]\n";
    text
}
