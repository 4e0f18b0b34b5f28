//! What a Dockerfile consists of.

use crate::oci::Healthcheck;

/// A parsed file.
#[derive(Debug)]
pub(crate) struct Dockerfile {
    pub(crate) escape: char,
    pub(crate) lines: Vec<Line>,
}

/// One instruction.
#[derive(Clone, Debug)]
pub(crate) struct Line {
    /// 1-based line it begins on.
    pub(crate) number: usize,
    /// The instruction on one line, without here-documents.
    pub(crate) text: String,
    pub(crate) instruction: Instruction,
}

/// A command in either form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    Exec(Vec<String>),
    Shell(String),
}

/// What to do; words still hold quotes and variables.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Instruction {
    From {
        image: String,
        name: Option<String>,
        platform: Option<String>,
    },
    Arg(Vec<(String, Option<String>)>),
    Env(Vec<(String, String)>),
    Label(Vec<(String, String)>),
    Copy(Box<Copy>),
    Run(Box<Run>),
    Cmd(Form),
    Entrypoint(Form),
    Workdir(String),
    User(String),
    Expose(Vec<String>),
    Volume(Vec<String>),
    StopSignal(String),
    Shell(Vec<String>),
    Healthcheck(Healthcheck),
    /// An instruction for images that are built on this one, with its here-documents.
    OnBuild(String),
}

/// A here-document.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Heredoc {
    /// The word that ends it; `COPY` names the file so.
    pub(crate) name: String,
    /// The word was not quoted: variables are put in.
    pub(crate) expand: bool,
    /// Tabs at the beginning of lines go.
    pub(crate) chomp: bool,
    /// The text.
    pub(crate) content: String,
    /// The lines as they stand, with the last.
    pub(crate) raw: String,
}

/// `RUN`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Run {
    pub(crate) form: Form,
    /// Text of a here-document that is a program of its own (`#!…`), run as a file.
    pub(crate) script: Option<String>,
    pub(crate) network: Option<String>,
    pub(crate) mounts: Vec<Mount>,
}

/// `COPY` and `ADD`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Copy {
    pub(crate) add: bool,
    pub(crate) sources: Vec<String>,
    /// Files that stand in the Dockerfile itself.
    pub(crate) texts: Vec<Heredoc>,
    pub(crate) target: String,
    pub(crate) chown: Option<String>,
    pub(crate) chmod: Option<String>,
    pub(crate) from: Option<String>,
    /// The layer does not depend on what is below it.
    pub(crate) link: bool,
    /// Keep the directories above a source.
    pub(crate) parents: bool,
    pub(crate) exclude: Vec<String>,
    /// What a remote source must hash to.
    pub(crate) checksum: Option<String>,
    /// Git's own files of a repository are kept.
    pub(crate) keep_git: bool,
    /// Whether archives are unpacked; `ADD` says yes to local ones and no to remote ones.
    pub(crate) unpack: Option<bool>,
}

/// `RUN --mount=…`; words still hold variables.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Mount {
    pub(crate) kind: MountKind,
    /// Where; secrets have a default of their own.
    pub(crate) target: Option<String>,
}

/// What is mounted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum MountKind {
    /// Files of the context, a stage or an image; writes are thrown away.
    Bind { from: Option<String>, source: String, writable: bool },
    /// A directory that stays from build to build.
    Cache {
        id: Option<String>,
        from: Option<String>,
        source: String,
        read_only: bool,
        sharing: Sharing,
        mode: Option<u32>,
        owner: (u32, u32),
    },
    /// A memory file system.
    Tmpfs { size: Option<u64> },
    /// A socket that leads to the caller's SSH agent.
    Ssh { id: String, required: bool, mode: u32, owner: (u32, u32) },
    /// A file that never gets into the image.
    Secret { id: String, required: bool, mode: u32, owner: (u32, u32), env: Option<String> },
}

/// Who may use a cache mount at the same time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Sharing {
    /// Everybody.
    #[default]
    Shared,
    /// One; a second gets a directory of its own.
    Private,
    /// One; a second waits.
    Locked,
}
