#include "gatewayd/gatewayd.h"
#include "lib/daemon/daemon.h"

static const struct daemon_info gatewayd_info = {
    .name = "gatewayd",
    .summary = "client APIs: gRPC and HTTP",
    .conf = gatewayd_conf_fields,
    .conf_size = sizeof(struct gatewayd_conf),
    .state_size = sizeof(struct gatewayd),
    .init = gatewayd_init,
    .start = gatewayd_start,
    .stop = gatewayd_stop,
    .fini = gatewayd_fini,
};

int main(int argc, char **argv)
{
    return daemon_main(&gatewayd_info, argc, argv);
}
