/* See ctl_secure.h. */
#include "ctl/ctl_secure.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>
#include "ctl/ctl.h"
#include "lib/tls/tls.h"

/* In the words of the one who opens them; what is wrong inside is the TLS library's to say. */
static void check_readable(const char *path)
{
    if (*path != '\0' && access(path, R_OK) != 0) {
        const char *why = strerror(errno);

        ctl_die(CTL_EXIT_BAD_ARGS, "open %s: %c%s", path,
                *why >= 'A' && *why <= 'Z' ? *why | 0x20 : *why, why + 1);
    }
}

struct tls_context *ctl_secure_context(const struct ctl_secure *secure)
{
    bool wanted =
        secure->wanted || *secure->cert != '\0' || *secure->key != '\0' || *secure->cacert != '\0';
    struct tls_context *tls = NULL;
    char *why = NULL;

    for (size_t i = 0; i < secure->endpoint_count; i++)
        wanted = wanted || strncmp(secure->endpoints[i], "https://", 8) == 0 ||
                 strncmp(secure->endpoints[i], "unixs:", 6) == 0;
    if (!wanted)
        return NULL;
    if ((*secure->cert == '\0') != (*secure->key == '\0'))
        ctl_die(CTL_EXIT_BAD_ARGS, "KeyFile and CertFile must both be present[key: %s, cert: %s]",
                secure->key, secure->cert);
    check_readable(secure->cacert);
    check_readable(secure->cert);
    check_readable(secure->key);
    if (tls_context_new(&(struct tls_args){.role = TLS_CLIENT,
                                           .cert_file = secure->cert,
                                           .key_file = secure->key,
                                           .ca_file = secure->cacert,
                                           .skip_verify = secure->skip_verify},
                        &tls, &why) != 0)
        ctl_die(CTL_EXIT_BAD_ARGS, "%s", why);
    return tls;
}
