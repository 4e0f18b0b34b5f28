//! Tables of what is read, and of what is refused.

use super::model::Mount;
use super::*;

fn only(text: &str) -> Instruction {
    parse(&format!("FROM scratch\n{text}")).unwrap().lines.pop().unwrap().instruction
}

fn shell(text: &str) -> Instruction {
    let form = Form::Shell(text.into());
    Instruction::Run(Box::new(Run { form, script: None, network: None, mounts: Vec::new() }))
}

#[test]
fn lines_and_forms() {
    let file = parse("# syntax=x\n# a comment\nARG V=1\nfrom base:$V as Two\nRUN a && \\\n# inside\n\n   b \\\n c\nCMD [\"x\", \"y\"]\n").unwrap();
    assert_eq!(file.lines.len(), 4);
    assert_eq!(
        file.lines[1].instruction,
        Instruction::From { image: "base:$V".into(), name: Some("two".into()), platform: None }
    );
    assert_eq!(file.lines[2].number, 5);
    assert_eq!(file.lines[2].instruction, shell("a &&    b  c"));
    assert_eq!(file.lines[3].instruction, Instruction::Cmd(Form::Exec(vec!["x".into(), "y".into()])));
    let ticks = parse("# escape=`\nFROM a\nRUN x `\n y\\\nUSER b").unwrap();
    assert_eq!(ticks.lines[1].instruction, shell("x  y\\"));
    assert_eq!(
        only("ENV A=1 B=\"2 3\""),
        Instruction::Env(vec![("A".into(), "1".into()), ("B".into(), "\"2 3\"".into())])
    );
    assert_eq!(only("ENV A some words"), Instruction::Env(vec![("A".into(), "some words".into())]));
    assert_eq!(only("CMD echo hi"), Instruction::Cmd(Form::Shell("echo hi".into())));
    assert_eq!(only("CMD []"), Instruction::Cmd(Form::Exec(vec![])));
    assert_eq!(only("CMD [broken"), Instruction::Cmd(Form::Shell("[broken".into())));
    let Instruction::Copy(copy) = only("COPY --chown=1:2 --chmod=755 --from=two a b /c/") else { panic!() };
    assert_eq!((copy.sources.len(), copy.target.as_str(), copy.chmod.as_deref()), (2, "/c/", Some("755")));
    let Instruction::Healthcheck(check) = only("HEALTHCHECK --interval=1m30s --retries=3 CMD curl x") else {
        panic!()
    };
    assert_eq!((check.interval, check.retries, check.test[0].as_str()), (90_000_000_000, 3, "CMD-SHELL"));
}

#[test]
fn mistakes_have_a_line_and_a_hint() {
    for (text, line, reason) in [
        ("", 1, "no FROM"),
        ("# only\n", 1, "no FROM"),
        ("RUN x", 1, "first instruction must be FROM"),
        ("FROM a\n\nRUNN x", 3, "unknown instruction \"RUNN\" (hint"),
        ("FROM a\nONBUILD FORM x", 2, "unknown instruction"),
        ("FROM a\nONBUILD ONBUILD RUN x", 2, "another ONBUILD"),
        ("FROM a\nONBUILD FROM x", 2, "FROM"),
        ("FROM a\nCOPY --chwon=1 a b", 2, "unknown flag --chwon (hint"),
        ("FROM a\nRUN --mount=type=cache x", 2, "needs a target"),
        ("FROM a\nRUN --mount=type=ssh,env=X x", 2, "has no \"env\""),
        ("FROM a\nRUN --mount=type=disk,target=/x x", 2, "not known (hint"),
        ("FROM a\nRUN --mount=type=tmpfs,target=/x,mode=1 x", 2, "has no \"mode\""),
        ("FROM a\nRUN --mount=type=cache,target=/x,sharing=all x", 2, "shared, private, locked"),
        ("FROM a\nRUN --mount=from=$X,target=/x x", 2, "variables are not put into"),
        ("FROM a\nRUN --security=insecure x", 2, "sandbox"),
        ("FROM a\nRUN --network=vpn x", 2, "none, host or default"),
        ("FROM a\nCOPY --from=$X a b", 2, "variables are not put into"),
        ("FROM a\nCOPY --link=maybe a b", 2, "true or false"),
        ("FROM a\nCOPY --from=b <<X /x\nX\n", 2, "does not come --from"),
        ("FROM a\nUSER --x y", 2, "takes no flag"),
        ("FROM a\nCOPY a", 2, "at least one source"),
        ("FROM a\nENV A", 2, "name=value"),
        ("FROM a\nENV A=1 B", 2, "has no ="),
        ("FROM a\nENV A='1", 2, "not closed"),
        ("FROM a\nUSER a b", 2, "exactly one"),
        ("FROM a b", 1, "FROM image AS name"),
        ("FROM a AS 1x", 1, "stage name"),
        ("FROM a\nSHELL sh", 2, "exec form"),
        ("FROM a\nHEALTHCHECK --interval=x CMD y", 2, "no duration"),
        ("FROM a\nRUN <<EOF\necho\nEO", 2, "does not end (hint"),
        ("FROM a\nWORKDIR", 2, "needs an argument"),
        ("# escape=x\nFROM a", 1, "escape may be"),
        ("FROM a\nRUN x \\", 0, ""),
    ] {
        match parse(text) {
            Err((at, message)) => {
                assert!(at == line && message.contains(reason), "{text:?}: {at}: {message}")
            }
            Ok(_) => assert_eq!(line, 0, "{text:?} was accepted"),
        }
    }
}

#[test]
fn here_documents() {
    assert_eq!(
        only("RUN <<EOF\n# no comment\necho $A \\\n  x\nEOF\n"),
        shell("# no comment\necho $A \\\n  x\n")
    );
    assert_eq!(
        only("RUN sh -e <<-'X' >/y && cat <<Y\n\ta\n\tX\nb\nY\n"),
        shell("sh -e <<-'X' >/y && cat <<Y\n\ta\n\tX\nb\nY\n")
    );
    let Instruction::Run(run) = only("RUN <<EOF\n#!/bin/awk -f\nBEGIN {}\nEOF\n") else { panic!() };
    assert_eq!(run.script.as_deref(), Some("#!/bin/awk -f\nBEGIN {}\n"));
    // Not here-documents: shifts, here-strings, quoted words.
    for text in ["RUN echo $((1<<2))", "RUN cat <<<x", "RUN echo \"<<EOF\"", "RUN a << b", "CMD <<EOF"] {
        only(text);
    }
    let Instruction::Copy(copy) = only("COPY --chmod=600 <<a.txt <<-\"b\" c /d/\n$X\na.txt\n\t$Y\n\tb\n")
    else {
        panic!()
    };
    assert_eq!((copy.sources.as_slice(), copy.target.as_str()), (&["c".to_owned()][..], "/d/"));
    let texts: Vec<_> =
        copy.texts.iter().map(|text| (text.name.as_str(), text.expand, text.content.as_str())).collect();
    assert_eq!(texts, [("a.txt", true, "$X\n"), ("b", false, "$Y\n")]);
    // The lines behind are read as before, with their numbers.
    let file = parse("FROM a\nRUN <<A cat <<B\n1\nA\n2\nB\nUSER x\n").unwrap();
    assert_eq!((file.lines.len(), file.lines[2].number), (3, 7));
    let Instruction::OnBuild(text) = only("ONBUILD RUN <<EOF\necho hi\nEOF\n") else { panic!() };
    assert_eq!(trigger(&text, '\\').unwrap().instruction, shell("echo hi\n"));
}

#[test]
fn mounts() {
    let of = |text: &str| {
        let Instruction::Run(run) = only(&format!("RUN --mount={text} true")) else { panic!() };
        run.mounts[0].clone()
    };
    let cache = MountKind::Cache {
        id: Some("x".into()),
        from: None,
        source: "/".into(),
        read_only: false,
        sharing: Sharing::Locked,
        mode: Some(0o700),
        owner: (5, 0),
    };
    assert_eq!(
        of("type=cache,id=x,dst=/c,sharing=locked,mode=0700,uid=5"),
        Mount { kind: cache, target: Some("/c".into()) }
    );
    let bind = MountKind::Bind { from: Some("two".into()), source: "a/b".into(), writable: true };
    assert_eq!(of("from=two,source=a/b,target=t,rw"), Mount { kind: bind, target: Some("t".into()) });
    assert_eq!(of("type=tmpfs,target=/t,size=64m").kind, MountKind::Tmpfs { size: Some(64 << 20) });
    let MountKind::Secret { id, required, mode, env, .. } = of("type=secret,id=key,required,env=KEY").kind
    else {
        panic!()
    };
    assert_eq!((id.as_str(), required, mode, env.as_deref()), ("key", true, 0o400, Some("KEY")));
}

#[test]
fn huge_files_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("Dockerfile");
    std::fs::write(&path, "#".repeat(MAX_BYTES as usize + 1)).unwrap();
    assert!(read(&path).unwrap_err().to_string().contains("larger than the limit"));
    assert!(parse(&format!("FROM a\n{}", "USER x\n".repeat(MAX_LINES))).unwrap_err().1.contains("more than"));
}
