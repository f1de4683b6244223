/* The directory of the configuration, which the command line names. */
#include <stdio.h>
#include <string.h>

static char directory[4096];

static void find_directory(void)
{
    char line[4096];
    FILE *file = fopen("/proc/self/cmdline", "r");
    if (!file)
        return;
    size_t length = fread(line, 1, sizeof line - 1, file);
    fclose(file);
    line[length] = 0;
    for (char *word = line; word < line + length; word += strlen(word) + 1) {
        char *name = strstr(word, "/quorate.toml");
        char *begin = strchr(word, '/');
        if (name && begin && name > begin) {
            *name = 0;
            strcpy(directory, begin);
            return;
        }
    }
}
