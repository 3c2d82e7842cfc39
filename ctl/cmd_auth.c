/* auth enable, disable, status. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include "ctl/cmd.h"
#include "ctl/ctl.h"
#include "ctl/print.h"

/* Without the role root, or without user root having it, they are made and enabling is tried again.
 */
static int run_enable(struct ctl *c, struct ctl_args *a)
{
    Etcdserverpb__AuthEnableRequest request = ETCDSERVERPB__AUTH_ENABLE_REQUEST__INIT;
    Etcdserverpb__AuthRoleAddRequest role = ETCDSERVERPB__AUTH_ROLE_ADD_REQUEST__INIT;
    Etcdserverpb__AuthUserGrantRoleRequest grant = ETCDSERVERPB__AUTH_USER_GRANT_ROLE_REQUEST__INIT;
    char root[] = "root";

    if (a->argc != 0)
        ctl_die(CTL_EXIT_BAD_ARGS, "auth enable command does not accept any arguments");
    role.name = grant.user = grant.role = root;
    for (int attempt = 0;; attempt++) {
        ProtobufCMessage *answer = NULL;
        struct ctl_error error = {0};

        if (ctl_try(c, &ctl_method_auth_enable, &request, &answer, &error) == 0) {
            print_done(c, answer, "Authentication Enabled");
            return CTL_EXIT_SUCCESS;
        }
        if (attempt > 1 ||
            strcmp(error.message, "etcdserver: root user does not have root role") != 0)
            ctl_die(CTL_EXIT_ERROR, "%s", error.message);
        ctl_error_fini(&error);
        if (ctl_try(c, &ctl_method_role_add, &role, &answer, &error) == 0)
            ctl_answer_free(answer);
        ctl_error_fini(&error);
        ctl_answer_free(ctl_ask(c, &ctl_method_user_grant, &grant));
    }
}

static int run_disable(struct ctl *c, struct ctl_args *a)
{
    Etcdserverpb__AuthDisableRequest request = ETCDSERVERPB__AUTH_DISABLE_REQUEST__INIT;

    if (a->argc != 0)
        ctl_die(CTL_EXIT_BAD_ARGS, "auth disable command does not accept any arguments");
    print_done(c, ctl_ask(c, &ctl_method_auth_disable, &request), "Authentication Disabled");
    return CTL_EXIT_SUCCESS;
}

static int run_status(struct ctl *c, struct ctl_args *a)
{
    Etcdserverpb__AuthStatusRequest request = ETCDSERVERPB__AUTH_STATUS_REQUEST__INIT;
    Etcdserverpb__AuthStatusResponse *r;

    if (a->argc != 0)
        ctl_die(CTL_EXIT_BAD_ARGS, "auth status command does not accept any arguments");
    r = ctl_ask(c, &ctl_method_auth_status, &request);
    print_done(c, r, "Authentication Status: %s\nAuthRevision: %" PRIu64,
               r->enabled ? "true" : "false", r->authrevision);
    return CTL_EXIT_SUCCESS;
}

static const struct ctl_command cmd_enable = {
    .use = "enable", .summary = "Enables authentication", .run = run_enable};
static const struct ctl_command cmd_disable = {
    .use = "disable", .summary = "Disables authentication", .run = run_disable};
static const struct ctl_command cmd_status = {
    .use = "status", .summary = "Returns authentication status", .run = run_status};
static const struct ctl_command *const children[] = {&cmd_enable, &cmd_disable, &cmd_status, NULL};
const struct ctl_command cmd_auth = {.use = "auth <enable or disable>",
                                     .summary = "Enable or disable authentication",
                                     .children = children};
