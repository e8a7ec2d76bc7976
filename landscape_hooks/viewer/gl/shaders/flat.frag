// A calm gradient, with a grain below one step of colour that hides its bands.
in vec2 v_place;
uniform vec3 top;
uniform vec3 bottom;
out vec4 color;

void main() {
    vec2 from = v_place - vec2(0.5, 0.58);
    float glow = exp(-3.2 * dot(from, from));
    vec3 mixed = mix(bottom, top, clamp(0.25 * v_place.y + 0.85 * glow, 0.0, 1.0));
    float grain = fract(52.9829189 * fract(dot(gl_FragCoord.xy, vec2(0.06711056, 0.00583715)))) - 0.5;
    color = vec4(top == bottom ? top : mixed + grain / 255.0, 1.0);
}
