/* The table of all commands, in etcdctl's order (which shows in suggestions), and the small ones.
 */
#include <stdio.h>
#include "config.h"
#include "ctl/cmd.h"
#include "ctl/ctl.h"

static int run_version(struct ctl *c, struct ctl_args *a)
{
    printf("%s version: %s\nAPI version: %s\n", c->help->program, c->help->version,
           c->help->api_version);
    return CTL_EXIT_SUCCESS;
}

static const struct ctl_command cmd_version = {
    .use = "version", .summary = "Prints the version of conclavectl", .run = run_version};

static int run_help(struct ctl *c, struct ctl_args *a)
{
    const struct ctl_command *path[CTL_DEPTH_MAX];
    const struct ctl_command *at = &ctl_root;
    size_t depth = 0;

    for (size_t i = 0; i < a->argc; i++) {
        const struct ctl_command *child =
            at->children != NULL ? ctl_command_find(at, a->argv[i]) : NULL;

        if (child == NULL && i == 0) {
            fputs("Unknown help topic [", stderr);
            for (size_t j = 0; j < a->argc; j++)
                fprintf(stderr, "%s`%s`", j > 0 ? " " : "", a->argv[j]);
            fputs("]\n", stderr);
        }
        if (child == NULL)
            break;
        path[depth++] = at = child;
    }
    ctl_help_print(stdout, c->help, path, depth);
    return CTL_EXIT_SUCCESS;
}

static const struct ctl_command cmd_help = {
    .use = "help [command]",
    .summary = "Help about any command",
    .description = "Shows the help of any command: conclavectl help <path to command>.",
    .run = run_help};

static int run_options(struct ctl *c, struct ctl_args *a)
{
    ctl_help_print(stdout, c->help, NULL, 0);
    return CTL_EXIT_SUCCESS;
}

static const struct ctl_command cmd_options = {
    .use = "options", .summary = "Lists the global options", .hidden = true, .run = run_options};

static int run_bash(struct ctl *c, struct ctl_args *a)
{
    ctl_help_completion_bash(stdout, c->help, !ctl_args_bool(a, "no-descriptions"));
    return CTL_EXIT_SUCCESS;
}

static int run_zsh(struct ctl *c, struct ctl_args *a)
{
    ctl_help_completion_zsh(stdout, c->help, !ctl_args_bool(a, "no-descriptions"));
    return CTL_EXIT_SUCCESS;
}

static int run_fish(struct ctl *c, struct ctl_args *a)
{
    ctl_help_completion_fish(stdout, c->help, !ctl_args_bool(a, "no-descriptions"));
    return CTL_EXIT_SUCCESS;
}

static const struct ctl_flag completion_flags[] = {
    CTL_BOOL("no-descriptions", "disable completion descriptions"), CTL_FLAGS_END};
static const struct ctl_command cmd_completion_bash = {
    .use = "bash",
    .summary = "Generate the autocompletion script for bash",
    .description = "Load it with: source <(conclavectl completion bash)",
    .flags = completion_flags,
    .run = run_bash};
static const struct ctl_command cmd_completion_zsh = {
    .use = "zsh",
    .summary = "Generate the autocompletion script for zsh",
    .description = "Load it with: source <(conclavectl completion zsh)",
    .flags = completion_flags,
    .run = run_zsh};
static const struct ctl_command cmd_completion_fish = {
    .use = "fish",
    .summary = "Generate the autocompletion script for fish",
    .description = "Load it with: conclavectl completion fish | source",
    .flags = completion_flags,
    .run = run_fish};
static const struct ctl_command *const completion_children[] = {
    &cmd_completion_bash, &cmd_completion_fish, &cmd_completion_zsh, NULL};
static const struct ctl_command cmd_completion = {
    .use = "completion",
    .summary = "Generate the autocompletion script for the specified shell",
    .children = completion_children};
static const struct ctl_command *const root_children[] = {
    &cmd_get,       &cmd_put,         &cmd_del,
    &cmd_txn,       &cmd_compaction,  &cmd_alarm,
    &cmd_defrag,    &cmd_endpoint,    &cmd_move_leader,
    &cmd_watch,     &cmd_version,     &cmd_lease,
    &cmd_member,    &cmd_snapshot,    &cmd_make_mirror,
    &cmd_lock,      &cmd_elect,       &cmd_auth,
    &cmd_user,      &cmd_role,        &cmd_check,
    &cmd_downgrade, &cmd_hashkv_file, &cmd_help,
    &cmd_options,   &cmd_completion,  NULL};
const struct ctl_command ctl_root = {.use = "conclavectl",
                                     .summary =
                                         "A simple command line client for Conclave and etcd.",
                                     .children = root_children};

const struct ctl_help_conf ctl_help = {
    .program = "conclavectl",
    .version = PACKAGE_VERSION,
    .api_version = "3.7",
    .root = &ctl_root,
    .globals = ctl_global_flags,
};
