/*
 * TLS of the client's connections, from the files the flags name.
 */
#ifndef CONCLAVE_CTL_CTL_SECURE_H
#define CONCLAVE_CTL_CTL_SECURE_H

#include <stdbool.h>
#include <stddef.h>

struct tls_context;

struct ctl_secure {
    const char *cert, *key, *cacert; /* "": none */
    bool wanted;                     /* even without files: --insecure-transport=false */
    bool skip_verify;
    char **endpoints; /* an https:// or unixs:// among them asks for TLS too */
    size_t endpoint_count;
};

/* NULL: plain text. Dies (exit code 128) when the files do not do. */
struct tls_context *ctl_secure_context(const struct ctl_secure *secure);

#endif
