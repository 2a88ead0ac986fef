//! Who may reach the management listeners: loopback in the clear, everything else by TLS.

use super::Config;

/// Refuses management in the clear beyond loopback, unless it is asked for.
///
/// # Errors
/// One line with the address and the ways out.
pub fn check(config: &Config) -> Result<(), String> {
    if config.tls.is_some() || config.insecure {
        return Ok(());
    }
    for (name, address) in [
        ("grpc-addr", config.grpc_addr),
        ("http-addr", config.http_addr),
    ] {
        if !address.ip().is_loopback() {
            return Err(format!(
                "{name}: {address} is not a loopback address, and there is no TLS; give --tls-cert \
                 and --tls-key (and --tls-client-ca to know the clients), listen on 127.0.0.1, or \
                 say --insecure"
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
    fn beyond_loopback_there_must_be_tls_or_a_clear_word() {
        assert!(checked(&[]).is_ok());
        assert!(checked(&["--http-addr", "[::1]:80"]).is_ok());
        let open = ["--grpc-addr", "0.0.0.0:50051"];
        let error = checked(&open).unwrap_err();
        assert!(error.contains("grpc-addr: 0.0.0.0:50051") && error.contains("--insecure"));
        assert!(checked(&[open[0], open[1], "--insecure"]).is_ok());
        assert!(checked(&[open[0], open[1], "--tls-cert", "c", "--tls-key", "k"]).is_ok());
    }
}
