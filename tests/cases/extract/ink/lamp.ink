// the lamp
VAR lit = false
-> start

=== start ===
The lamp is out. /* or
is it */
*   [Light it]
    ~ lit = true
    "It burns," I say. -> stairs
*   "No[."]," I answer.
-   (after) The bell rings. <>
    { lit:
        -> stairs
    }
= stairs
We go down. # quiet
-> END
