/*
 * TLS settings together: what contradicts is refused in etcd's words, what etcd ignores with a warning
 * is warned of, and what the daemons will load is loaded here once before, so that a wrong file is one
 * line at the start and not a daemon that comes and goes.
 */
#include "supervisor/settings.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include "lib/tls/tls.h"
#include "lib/util/xmalloc.h"

/* The two sides, whose settings differ in a prefix and little else. */
struct side {
    const char *kind;
    const char *cert, *key, *ca, *crl, *auth, *allowed_cn, *allowed_hostname;
    const char *auto_tls, *dir;
    const char *client_cert, *client_key; /* for dialling; NULL: it does not dial */
    const char *urls[3];     /* listening */
    const char *advertised;
};

static const struct side sides[] = {
    {"client", "cert-file", "key-file", "trusted-ca-file", "client-crl-file", "client-cert-auth",
     "client-cert-allowed-cn", "client-cert-allowed-hostname", "auto-tls", "client", NULL, NULL,
     {"listen-client-urls", "listen-client-http-urls", "listen-metrics-urls"},
     "advertise-client-urls"},
    {"peer", "peer-cert-file", "peer-key-file", "peer-trusted-ca-file", "peer-crl-file",
     "peer-client-cert-auth", "peer-cert-allowed-cn", "peer-cert-allowed-hostname", "peer-auto-tls",
     "peer", "peer-client-cert-file", "peer-client-key-file",
     {"listen-peer-urls", NULL, NULL},
     "initial-advertise-peer-urls"},
};

static bool given(const struct settings *s, const char *name)
{
    return *settings_text(s, name) != '\0';
}

static bool is_secure(const struct url *u)
{
    return strcmp(u->scheme, "https") == 0 || strcmp(u->scheme, "unixs") == 0;
}

static int check_pair(struct settings *s, const char *cert_name, const char *key_name,
                      struct settings_error *e)
{
    if (given(s, cert_name) == given(s, key_name))
        return 0;
    return settings_error_at(s, given(s, cert_name) ? cert_name : key_name, e,
                             "KeyFile and CertFile must both be present[key: %s, cert: %s]",
                             settings_text(s, key_name), settings_text(s, cert_name));
}

static int check_url(struct settings *s, const struct side *side, const char *name,
                     const struct url *u, struct settings_error *e)
{
    bool has_cert = given(s, side->cert) || settings_bool(s, side->auto_tls);

    if (strncmp(u->scheme, "unix", 4) == 0 && strcmp(side->kind, "peer") == 0)
        return settings_error_at(s, name, e, "%s: scheme %s is not available in this version",
                                 u->text, u->scheme);
    if (is_secure(u) && !has_cert)
        return settings_error_at(s, name, e,
                                 "TLS key/cert (--%s, --%s) must be provided for %s url %s with "
                                 "HTTPS scheme",
                                 side->cert, side->key, side->kind, u->text);
    if (is_secure(u))
        return 0;
    if (has_cert)
        settings_notice(s, true,
                        "The scheme of %s url %s is HTTP while peer key/cert files are presented. "
                        "Ignored key/cert files.",
                        side->kind, u->text);
    if (settings_bool(s, side->auth))
        settings_notice(s, true,
                        "The scheme of %s url %s is HTTP while client cert auth (--%s) is enabled. "
                        "Ignored client cert auth for this url.",
                        side->kind, u->text, side->auth);
    return 0;
}

static int check_side(struct settings *s, const struct side *side, struct settings_error *e)
{
    int r = check_pair(s, side->cert, side->key, e);

    if (r == 0 && side->client_cert != NULL)
        r = check_pair(s, side->client_cert, side->client_key, e);
    if (r == 0 && given(s, side->allowed_cn) && given(s, side->allowed_hostname))
        r = settings_error_at(s, side->allowed_hostname, e,
                              "AllowedCN and AllowedHostname are mutually exclusive (cn=\"%s\", "
                              "hostname=\"%s\")",
                              settings_text(s, side->allowed_cn),
                              settings_text(s, side->allowed_hostname));
    if (r == 0 && settings_bool(s, side->auth) && !given(s, side->ca))
        settings_notice(s, true,
                        "--%s without --%s: every authority this system trusts may sign %s "
                        "certificates",
                        side->auth, side->ca, side->kind);
    for (size_t i = 0; r == 0 && i < ARRAY_LEN(side->urls) && side->urls[i] != NULL; i++) {
        CLEANUP(setting_urls_fini) struct setting_urls l = settings_urls(s, side->urls[i]);

        for (size_t k = 0; r == 0 && k < l.count; k++)
            r = check_url(s, side, side->urls[i], &l.items[k], e);
    }
    return r;
}

int settings_check_tls(struct settings *s, struct settings_error *e)
{
    CLEANUP(freep) char *why = NULL;
    int r = tls_check_suites(settings_text(s, "cipher-suites"), settings_text(s, "tls-min-version"),
                             settings_text(s, "tls-max-version"), &why);

    if (r < 0) /* named after the first that may be meant: the text says which it is */
        return settings_error_at(s,
                                 settings_is_given(s, "cipher-suites") ? "cipher-suites"
                                 : settings_is_given(s, "tls-max-version") ? "tls-max-version"
                                                                           : "tls-min-version",
                                 e, "%s", why);
    for (size_t i = 0; r == 0 && i < ARRAY_LEN(sides); i++)
        r = check_side(s, &sides[i], e);
    return r;
}

void settings_derive_tls(struct settings *s)
{
    for (size_t i = 0; i < ARRAY_LEN(sides); i++) {
        const struct side *side = &sides[i];
        const char *data_dir = settings_text(s, "data-dir");

        if (!settings_bool(s, side->auto_tls))
            continue;
        if (given(s, side->cert)) {
            settings_notice(s, true, "ignoring %s auto TLS since certs given", side->kind);
            settings_set(s, side->auto_tls, xstrdup("false"));
            continue;
        }
        settings_set(s, side->cert, xasprintf("%s/fixtures/%s/cert.pem", data_dir, side->dir));
        settings_set(s, side->key, xasprintf("%s/fixtures/%s/key.pem", data_dir, side->dir));
    }
}

static void add_hosts(const struct settings *s, const char *name, struct buf *hosts)
{
    CLEANUP(setting_urls_fini) struct setting_urls l = settings_urls(s, name);

    for (size_t i = 0; i < l.count; i++)
        buf_appendf(hosts, "%s%s", hosts->len > 0 ? "," : "", l.items[i].host);
}

static int make_auto(const struct settings *s, const struct side *side, struct settings_error *e)
{
    CLEANUP(freep) char *dir =
        xasprintf("%s/fixtures/%s", settings_text(s, "data-dir"), side->dir);
    CLEANUP(buf_fini) struct buf hosts = BUF_INIT;
    CLEANUP(freep) char *why = NULL;

    if (!settings_bool(s, side->auto_tls))
        return 0;
    add_hosts(s, side->urls[0], &hosts);
    add_hosts(s, side->advertised, &hosts);
    buf_append_u8(&hosts, '\0');
    if (tls_make_self_signed(dir, (const char *)hosts.data,
                             (unsigned int)settings_u64(s, "self-signed-cert-validity"), &why) < 0)
        return settings_error_set(e, 1, "%s", why);
    return 0;
}

static bool has_secure_url(const struct settings *s, const struct side *side)
{
    for (size_t i = 0; i < ARRAY_LEN(side->urls) && side->urls[i] != NULL; i++) {
        CLEANUP(setting_urls_fini) struct setting_urls l = settings_urls(s, side->urls[i]);

        for (size_t k = 0; k < l.count; k++) {
            if (is_secure(&l.items[k]))
                return true;
        }
    }
    return false;
}

static int try_context(const struct settings *s, const struct side *side, enum tls_role role,
                       struct settings_error *e)
{
    bool dials = role == TLS_CLIENT && side->client_cert != NULL && given(s, side->client_cert);
    const struct tls_args args = {
        .role = role,
        .cert_file = settings_text(s, dials ? side->client_cert : side->cert),
        .key_file = settings_text(s, dials ? side->client_key : side->key),
        .ca_file = settings_text(s, side->ca),
        .require_cert = settings_bool(s, side->auth),
        .crl_file = settings_text(s, side->crl),
        .allowed_cn = settings_text(s, side->allowed_cn),
        .allowed_hostname = settings_text(s, side->allowed_hostname),
        .cipher_suites = settings_text(s, "cipher-suites"),
        .min_version = settings_text(s, "tls-min-version"),
        .max_version = settings_text(s, "tls-max-version"),
    };
    struct tls_context *ctx = NULL;
    CLEANUP(freep) char *why = NULL;

    if (tls_context_new(&args, &ctx, &why) < 0)
        return settings_error_set(e, 1, "TLS for %ss: %s", side->kind, why);
    tls_context_free(ctx);
    return 0;
}

int settings_prepare_tls(struct settings *s, struct settings_error *e)
{
    int r = 0;

    for (size_t i = 0; r == 0 && i < ARRAY_LEN(sides); i++) {
        const struct side *side = &sides[i];

        r = make_auto(s, side, e);
        if (r < 0 || !has_secure_url(s, side))
            continue;
        r = try_context(s, side, TLS_SERVER, e);
        if (r == 0 && side->client_cert != NULL)
            r = try_context(s, side, TLS_CLIENT, e);
    }
    return r;
}
