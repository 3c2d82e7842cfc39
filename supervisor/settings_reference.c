/* Prints the tables of docs/configuration.md. */
#include "supervisor/settings.h"

int main(void)
{
    settings_print_reference(stdout);
    return 0;
}
