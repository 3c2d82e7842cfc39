/* See ctl_secure.h. */
#include "ctl/ctl_secure.h"

#include <string.h>
#include "ctl/ctl.h"

struct tls_context *ctl_secure_context(const struct ctl_secure *secure)
{
    bool wanted = *secure->cert != '\0' || *secure->key != '\0' || *secure->cacert != '\0';

    for (size_t i = 0; i < secure->endpoint_count; i++)
        wanted = wanted || strncmp(secure->endpoints[i], "https://", 8) == 0;
    if (!wanted)
        return NULL;
    ctl_die(CTL_EXIT_BAD_ARGS, "TLS is not there yet");
}
