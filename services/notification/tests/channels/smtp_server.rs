//! A mail server after RFC 5321, 3207 (STARTTLS) and 4954 (AUTH PLAIN) that keeps what it is given.
//!
//! The crates that exist either block a thread a connection, have no STARTTLS or depend on crates that are
//! no longer looked after (mailin-embedded: rustls-pemfile).

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicUsize, Ordering},
};

use tokio::{
    io::{AsyncBufReadExt, AsyncRead, AsyncWrite, AsyncWriteExt, BufStream},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::TlsAcceptor;

/// How the server protects its connections.
#[derive(Clone, Default)]
pub(crate) enum Security {
    #[default]
    None,
    StartTls(TlsAcceptor),
    Implicit(TlsAcceptor),
}

/// What the server does out of the ordinary. A verb is `MAIL`, `RCPT`, …; `GREETING` is the time before the
/// first, `END` the end of the mail's text.
#[derive(Clone, Default)]
pub(crate) struct Behaviour {
    pub(crate) security: Security,
    /// AUTH PLAIN is wanted with this base64 text.
    pub(crate) login: Option<&'static str>,
    /// Answers a verb with this reply.
    pub(crate) reply: Option<(&'static str, &'static str)>,
    /// Never answers this verb, on the first connection only.
    pub(crate) hang: Option<&'static str>,
    /// Hangs up after a mail was taken.
    pub(crate) hang_up: bool,
}

/// A mail as it came.
#[derive(Clone, Debug, Default)]
pub(crate) struct Mail {
    pub(crate) from: String,
    pub(crate) to: Vec<String>,
    pub(crate) text: String,
    pub(crate) encrypted: bool,
    pub(crate) greeted_as: String,
}

impl Mail {
    pub(crate) fn header(&self, name: &str) -> &str {
        let head = self.text.split_once("\r\n\r\n").unwrap().0;
        let prefix = format!("{name}: ");
        let mut values = head.lines().filter_map(|line| line.strip_prefix(&prefix));
        let value = values
            .next()
            .unwrap_or_else(|| panic!("no {name} in {head}"));
        assert_eq!(values.next(), None, "{name} twice");
        value
    }

    pub(crate) fn body(&self) -> &str {
        self.text.split_once("\r\n\r\n").unwrap().1
    }
}

pub(crate) struct SmtpServer {
    pub(crate) port: u16,
    state: Arc<State>,
}

struct State {
    behaviour: Behaviour,
    mails: Mutex<Vec<Mail>>,
    connections: AtomicUsize,
}

impl SmtpServer {
    pub(crate) async fn start(behaviour: Behaviour) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let state = Arc::new(State {
            behaviour,
            mails: Mutex::default(),
            connections: AtomicUsize::new(0),
        });
        let server = Self {
            port,
            state: Arc::clone(&state),
        };
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let first = state.connections.fetch_add(1, Ordering::SeqCst) == 0;
                tokio::spawn(Arc::clone(&state).serve(stream, first));
            }
        });
        server
    }

    pub(crate) fn mails(&self) -> Vec<Mail> {
        self.state.mails.lock().unwrap().clone()
    }

    pub(crate) fn connections(&self) -> usize {
        self.state.connections.load(Ordering::SeqCst)
    }
}

impl State {
    /// Ends with the connection; a client that hangs up is no fault.
    async fn serve(self: Arc<Self>, stream: TcpStream, first: bool) -> Option<()> {
        match self.behaviour.security.clone() {
            Security::None => {
                Session::new(&self, stream, first)
                    .greet()
                    .await?
                    .run()
                    .await;
            }
            Security::StartTls(acceptor) => {
                let session = Session::new(&self, stream, first);
                let plain = session.greet().await?.run().await?;
                let stream = acceptor.accept(plain.into_inner()).await.ok()?;
                Session::new(&self, stream, first).encrypted().run().await;
            }
            Security::Implicit(acceptor) => {
                let stream = acceptor.accept(stream).await.ok()?;
                let session = Session::new(&self, stream, first).encrypted();
                session.greet().await?.run().await;
            }
        }
        Some(())
    }
}

struct Session<'a, S> {
    state: &'a State,
    stream: BufStream<S>,
    first: bool,
    encrypted: bool,
    logged_in: bool,
    greeted_as: String,
    mail: Mail,
}

impl<'a, S: AsyncRead + AsyncWrite + Unpin> Session<'a, S> {
    fn new(state: &'a State, stream: S, first: bool) -> Self {
        Self {
            state,
            stream: BufStream::new(stream),
            first,
            encrypted: false,
            logged_in: false,
            greeted_as: String::new(),
            mail: Mail::default(),
        }
    }

    fn encrypted(mut self) -> Self {
        self.encrypted = true;
        self
    }

    async fn greet(mut self) -> Option<Self> {
        self.answer("GREETING", "220 mail.example.com ESMTP")
            .await?;
        Some(self)
    }

    /// Answers commands until the connection ends (`None`) or is to be encrypted.
    async fn run(mut self) -> Option<BufStream<S>> {
        loop {
            let line = self.line().await?;
            let (verb, rest) = line.split_once(' ').unwrap_or((&line, ""));
            match verb.to_ascii_uppercase().as_str() {
                "EHLO" => {
                    self.greeted_as = rest.to_owned();
                    let reply = self.capabilities();
                    self.answer("EHLO", &reply).await?;
                }
                "STARTTLS" if self.can_encrypt() => {
                    self.answer("STARTTLS", "220 go ahead").await?;
                    return Some(self.stream);
                }
                "AUTH" => {
                    let wanted = self
                        .state
                        .behaviour
                        .login
                        .map(|login| format!("PLAIN {login}"));
                    self.logged_in = wanted.is_some_and(|wanted| wanted == rest);
                    let ok = if self.logged_in {
                        "235 welcome"
                    } else {
                        "535 5.7.8 no"
                    };
                    self.answer("AUTH", ok).await?;
                }
                "MAIL" if self.state.behaviour.login.is_some() && !self.logged_in => {
                    self.answer("MAIL", "530 5.7.0 log in first").await?;
                }
                "MAIL" => {
                    self.mail = Mail {
                        from: address(rest, "FROM:"),
                        encrypted: self.encrypted,
                        greeted_as: self.greeted_as.clone(),
                        ..Mail::default()
                    };
                    self.answer("MAIL", "250 ok").await?;
                }
                "RCPT" => {
                    self.mail.to.push(address(rest, "TO:"));
                    self.answer("RCPT", "250 ok").await?;
                }
                "DATA" => self.data().await?,
                "NOOP" => self.answer("NOOP", "250 ok").await?,
                "QUIT" => {
                    self.answer("QUIT", "221 bye").await?;
                    return None;
                }
                _ => self.answer("", "502 5.5.1 what?").await?,
            }
        }
    }

    async fn data(&mut self) -> Option<()> {
        self.answer("DATA", "354 go on").await?;
        if self
            .state
            .behaviour
            .reply
            .is_some_and(|(verb, _)| verb == "DATA")
        {
            return Some(());
        }
        loop {
            let line = self.line().await?;
            if line == "." {
                break;
            }
            let line = line.strip_prefix('.').unwrap_or(&line);
            self.mail.text.push_str(line);
            self.mail.text.push_str("\r\n");
        }
        let mail = std::mem::take(&mut self.mail);
        self.state.mails.lock().unwrap().push(mail);
        self.answer("END", "250 2.0.0 queued").await?;
        (!self.state.behaviour.hang_up).then_some(())
    }

    fn can_encrypt(&self) -> bool {
        matches!(self.state.behaviour.security, Security::StartTls(_)) && !self.encrypted
    }

    fn capabilities(&self) -> String {
        let mut reply = "250-mail.example.com\r\n".to_owned();
        if self.can_encrypt() {
            reply.push_str("250-STARTTLS\r\n");
        }
        if self.state.behaviour.login.is_some() {
            reply.push_str("250-AUTH PLAIN\r\n");
        }
        reply + "250 8BITMIME"
    }

    /// A line without its end; `None` at the end of the connection.
    async fn line(&mut self) -> Option<String> {
        let mut line = String::new();
        let read = self.stream.read_line(&mut line).await.ok()?;
        let line = line.strip_suffix("\r\n").map(str::to_owned);
        (read > 0).then(|| line.expect("lines end in CRLF"))
    }

    async fn answer(&mut self, verb: &str, usual: &str) -> Option<()> {
        let behaviour = &self.state.behaviour;
        if self.first && behaviour.hang == Some(verb) {
            std::future::pending::<()>().await;
        }
        let other = behaviour.reply.filter(|(of, _)| *of == verb);
        let reply = other.map_or(usual, |(_, reply)| reply);
        let reply = format!("{reply}\r\n");
        self.stream.write_all(reply.as_bytes()).await.ok()?;
        self.stream.flush().await.ok()
    }
}

/// `<a@b>` from `FROM:<a@b> BODY=8BITMIME`.
fn address(parameters: &str, prefix: &str) -> String {
    let path = parameters.strip_prefix(prefix).expect("a path");
    let path = path.split_once(' ').map_or(path, |(path, _)| path);
    path.to_owned()
}
