// Stands in for a library of Windows that std asks for random numbers, and that Wine 8 lacks: tests/targets.sh puts it
// beside the tests. No part of the crate.
#include <windows.h>

BOOLEAN NTAPI SystemFunction036(PVOID bytes, ULONG count);

__declspec(dllexport) BOOL WINAPI ProcessPrng(PBYTE bytes, SIZE_T count) {
    while (count > 0) {
        ULONG part = count > 1 << 20 ? 1 << 20 : (ULONG)count;
        if (!SystemFunction036(bytes, part)) {
            return FALSE;
        }
        bytes += part;
        count -= part;
    }
    return TRUE;
}
