//! Who may reach the management listeners: on loopback everybody, beyond it known clients by TLS.

use super::Config;

/// Refuses management beyond loopback without TLS that knows its clients, unless it is asked for.
///
/// # Errors
/// One line with the address, what is missing, and the ways out.
pub fn check(config: &Config) -> Result<(), String> {
    if config.insecure {
        return Ok(());
    }
    let missing = match &config.tls {
        None => "there is no TLS; give --tls-cert, --tls-key and --tls-client-ca",
        Some(tls) if tls.client_ca.is_none() => {
            "TLS without a client CA lets everybody in; give --tls-client-ca as well"
        }
        Some(_) => return Ok(()),
    };
    for (name, address) in [
        ("grpc-addr", config.grpc_addr),
        ("http-addr", config.http_addr),
    ] {
        if !address.ip().is_loopback() {
            return Err(format!(
                "{name}: {address} is not a loopback address, and {missing}, listen on 127.0.0.1, \
                 or say --insecure"
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::{Wish, augment, read};
    use super::check;

    fn checked(arguments: &[&str]) -> Result<(), String> {
        let command = augment(clap::Command::new("serve"));
        let all = std::iter::once(&"serve").chain(arguments);
        match read(&command.get_matches_from(all)).unwrap() {
            Wish::Serve(config) => check(&config),
            Wish::Print(text) => panic!("{text}"),
        }
    }

    #[test]
    fn beyond_loopback_there_must_be_tls_that_knows_its_clients_or_a_clear_word() {
        assert!(checked(&[]).is_ok());
        assert!(checked(&["--http-addr", "[::1]:80"]).is_ok());
        let open = |more: &[&str]| {
            let beyond = ["--grpc-addr", "0.0.0.0:50051"];
            checked(&[&beyond, more].concat())
        };
        let error = open(&[]).unwrap_err();
        assert!(error.contains("grpc-addr: 0.0.0.0:50051") && error.contains("--insecure"));
        assert!(
            error.contains("--tls-cert, --tls-key and --tls-client-ca"),
            "{error}"
        );
        assert!(open(&["--insecure"]).is_ok());
        let pair = ["--tls-cert", "c", "--tls-key", "k"];
        let error = open(&pair).unwrap_err();
        assert!(error.contains("give --tls-client-ca as well"), "{error}");
        assert!(open(&[&pair[..], &["--insecure"]].concat()).is_ok());
        assert!(open(&[&pair[..], &["--tls-client-ca", "a"]].concat()).is_ok());
        // On loopback the pair is enough.
        assert!(checked(&pair).is_ok());
    }
}
